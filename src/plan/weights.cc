#include "plan/weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "checkpoint/usage.h"
#include "plan/cpu_executor.h"

namespace weft {

using kernels::CpuTable;
using kernels::PackedMatrix;
using kernels::WeightForm;

namespace {

// A matrix whose tensors have been found.
struct Claimed {
  const Matrix* matrix = nullptr;
  std::vector<const TensorInfo*> sources;
};

// Panels of one matrix that one thread packs at a time.
struct Task {
  int matrix = 0, first_panel = 0, panels = 0;
};

class Loader {
 public:
  Loader(const Plan& plan, std::shared_ptr<const Checkpoint> checkpoint, const CpuTable& table, ThreadTeam& team, const LoadOptions& options)
      : plan_(plan), checkpoint_(std::move(checkpoint)), table_(table), team_(team), options_(options), usage_(*checkpoint_) {}

  Result<Weights> load() {
    weights_.checkpoint = checkpoint_;
    claim();
    WEFT_RETURN_IF_ERROR(usage_.finish());
    WEFT_RETURN_IF_ERROR(read_vectors());
    WEFT_RETURN_IF_ERROR(allocate());
    pack();
    if (error_) return std::move(*error_);
    WEFT_RETURN_IF_ERROR(read_tables());
    return std::move(weights_);
  }

 private:
  void claim() {
    for (const Matrix& m : plan_.matrices) {
      Claimed claimed{&m, {}};
      for (const TensorRows& source : m.sources) claimed.sources.push_back(usage_.take(source.tensor, shape_of(source, m.k)));
      matrices_.push_back(std::move(claimed));
      std::vector<const TensorInfo*> biases;
      for (const TensorRows& bias : m.biases)
        biases.push_back(bias.tensor.empty() ? nullptr : usage_.take(bias.tensor, {bias.first_row + bias.rows}));
      biases_.push_back(std::move(biases));
    }
    for (const VectorWeight& v : plan_.vectors) {
      const std::string& tensor = v.tensor.empty() ? v.divided_by : v.tensor;
      vectors_.push_back(tensor.empty() ? nullptr : usage_.take(tensor, {v.size}));
    }
    for (size_t i = 0; i < plan_.tables.size(); ++i)
      tables_.push_back(usage_.take(plan_.tables[i].tensor, shape_of(plan_.tables[i], plan_.table_cols[i])));
    for (const std::string& name : plan_.unused) usage_.ignore(name);
  }

  static std::vector<int64_t> shape_of(const TensorRows& source, int k) {
    return source.shape.empty() ? std::vector<int64_t>{source.first_row + source.rows, k} : source.shape;
  }

  Status read_vectors() {
    for (size_t i = 0; i < plan_.vectors.size(); ++i) {
      std::vector<float> values = plan_.vectors[i].values;
      if (vectors_[i]) {
        WEFT_TRY(std::vector<float> read, read_all(*vectors_[i]));
        if (values.empty()) values = std::move(read), weights_.parameters += static_cast<int64_t>(values.size());
        else
          for (size_t k = 0; k < values.size(); ++k) values[k] /= read[k];
      }
      weights_.bytes += static_cast<int64_t>(values.size() * sizeof(float));
      weights_.vectors.push_back(std::move(values));
    }
    for (size_t i = 0; i < biases_.size(); ++i) {
      std::vector<float> values;
      for (size_t s = 0; s < biases_[i].size(); ++s) {
        std::vector<float> part(plan_.matrices[i].biases[s].rows);
        if (biases_[i][s]) {
          WEFT_TRY(const std::vector<float> all, read_all(*biases_[i][s]));
          std::copy_n(all.begin() + plan_.matrices[i].biases[s].first_row, part.size(), part.begin());
        }
        values.insert(values.end(), part.begin(), part.end());
      }
      weights_.parameters += static_cast<int64_t>(values.size());
      weights_.bias_values.push_back(std::move(values));
    }
    for (const std::vector<float>& values : weights_.bias_values) weights_.biases.push_back(values.empty() ? nullptr : values.data());
    return {};
  }

  Status allocate() {
    for (const Claimed& claimed : matrices_) {
      const Matrix& m = *claimed.matrix;
      const WeightForm form = form_of(m, options_.form);
      PackedMatrix packed{form, static_cast<int>(m.out()), m.k, table_.panel_cols(form), table_.panel_bytes(form, m.k), m.shards(), nullptr};
      const int panels = (packed.out + packed.panel - 1) / packed.panel;
      const size_t bytes = panels * packed.panel_bytes;
      // Reading ahead past the end is allowed to the kernels.
      WEFT_TRY(Memory memory, Memory::reserve(bytes + 8192, bytes >= (size_t{2} << 20)));
      packed.data = memory.data();
      weights_.memory.push_back(std::move(memory));
      weights_.matrices.push_back(packed);
      weights_.bytes += static_cast<int64_t>(bytes);
      weights_.parameters += m.out() * m.k;
      total_bytes_ += static_cast<int64_t>(bytes);
      const int per_task = std::max<int>(1, static_cast<int>((size_t{1} << 20) / packed.panel_bytes));
      const int index = static_cast<int>(weights_.matrices.size()) - 1;
      for (int first = 0; first < panels; first += per_task) tasks_.push_back({index, first, std::min(per_task, panels - first)});
    }
    return {};
  }

  void pack() {
    std::atomic<size_t> next{0};
    std::vector<std::atomic<int>> left(matrices_.size());
    for (const Task& task : tasks_) ++left[task.matrix];
    team_.run([&](int) {
      std::vector<float> rows;
      for (size_t i = next++; i < tasks_.size() && !failed_; i = next++) {
        pack_task(tasks_[i], rows);
        const int m = tasks_[i].matrix;
        if (--left[m] == 0)
          for (const TensorInfo* source : matrices_[m].sources) checkpoint_->drop(*source);
        const int64_t done = done_bytes_ += static_cast<int64_t>(tasks_[i].panels * weights_.matrices[m].panel_bytes);
        if (options_.progress) options_.progress(done, total_bytes_);
      }
    });
  }

  void pack_task(const Task& task, std::vector<float>& rows) {
    const PackedMatrix& packed = weights_.matrices[task.matrix];
    const Claimed& claimed = matrices_[task.matrix];
    for (int panel = task.first_panel; panel < task.first_panel + task.panels; ++panel) {
      // The memory is this loader's own; readers get it as const.
      std::byte* to = const_cast<std::byte*>(packed.data) + panel * packed.panel_bytes;
      const int first = panel * packed.panel, count = std::min(packed.panel, packed.out - first);
      if (packed.form == WeightForm::bf16 && pack_plain(claimed, first, count, to)) continue;
      rows.resize(static_cast<size_t>(packed.panel) * packed.k);
      if (Status read = gather(claimed, first, count, rows.data()); !read.ok()) return report(read.error());
      table_.pack_panel(packed.form, rows.data(), packed.k, count, packed.k, to);
    }
  }

  // Rows that lie as bfloat16 in one tensor need no detour over float32.
  bool pack_plain(const Claimed& claimed, int first, int count, std::byte* to) const {
    int64_t begin = 0;
    for (size_t s = 0; s < claimed.sources.size(); ++s) {
      const TensorRows& rows = claimed.matrix->sources[s];
      if (first >= begin && first + count <= begin + rows.rows) {
        const TensorInfo& tensor = *claimed.sources[s];
        if (!tensor.is_plain() || tensor.type != StorageType::bf16 || rows.transposed) return false;
        const std::byte* data = tensor.data.data() + (rows.first_row + first - begin) * claimed.matrix->k * 2;
        if (reinterpret_cast<uintptr_t>(data) % 2 != 0) return false;
        table_.pack_panel_bf16(reinterpret_cast<const uint16_t*>(data), claimed.matrix->k, count, claimed.matrix->k, to);
        return true;
      }
      begin += rows.rows;
    }
    return false;
  }

  // Output rows [first, first + count) of the stacked matrix as float32.
  Status gather(const Claimed& claimed, int64_t first, int64_t count, float* out) const {
    int64_t begin = 0;
    for (size_t s = 0; s < claimed.sources.size(); ++s) {
      const TensorRows& rows = claimed.matrix->sources[s];
      const int64_t from = std::max(first, begin), to = std::min(first + count, begin + rows.rows);
      float* at = out + (from - first) * claimed.matrix->k;
      if (from < to && rows.transposed) {
        WEFT_RETURN_IF_ERROR(gather_columns(*claimed.sources[s], rows, from - begin, to - from, claimed.matrix->k, at));
      } else if (from < to) {
        // A tensor of more dimensions (a convolution's) lies in memory as the matrix does.
        const TensorInfo& tensor = *claimed.sources[s];
        const int64_t pieces = claimed.matrix->k / tensor.cols();
        WEFT_RETURN_IF_ERROR(read_rows(tensor, (rows.first_row + from - begin) * pieces, (to - from) * pieces, at, tensor.cols()));
      }
      begin += rows.rows;
    }
    return {};
  }

  // Outputs [first, first + count) of a source whose outputs are the tensor's columns.
  static Status gather_columns(const TensorInfo& tensor, const TensorRows& source, int64_t first, int64_t count, int k, float* out) {
    constexpr int64_t kRows = 64;
    std::vector<float> block(static_cast<size_t>(kRows * count));
    for (int64_t row = 0; row < k; row += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, k - row);
      WEFT_RETURN_IF_ERROR(read_block(tensor, source.first_row + row, rows, source.first_col + first, count, block.data(), count));
      for (int64_t n = 0; n < count; ++n)
        for (int64_t i = 0; i < rows; ++i) out[n * k + row + i] = block[static_cast<size_t>(i * count + n)];
    }
    return {};
  }

  // Plain tables stay where they are in the file; others are widened once.
  Status read_tables() {
    for (size_t i = 0; i < tables_.size(); ++i) {
      const TensorInfo& tensor = *tables_[i];
      weights_.parameters += tensor.values();
      const bool direct = tensor.is_plain() && reinterpret_cast<uintptr_t>(tensor.data.data()) % 4 == 0 &&
                          (tensor.type == StorageType::f32 || tensor.type == StorageType::bf16 || tensor.type == StorageType::f16);
      if (direct) {
        weights_.tables.push_back({tensor.data.data(), *plain_dtype(tensor.type)});
        continue;
      }
      const bool narrow = options_.form != WeightForm::f32;
      const size_t value_bytes = narrow ? 2 : 4, cols = tensor.cols();
      WEFT_TRY(Memory memory, Memory::reserve(tensor.values() * value_bytes, true));
      std::atomic<int64_t> next{0};
      constexpr int64_t kRows = 64;
      team_.run([&](int) {
        std::vector<float> rows(kRows * cols);
        for (int64_t first = next.fetch_add(kRows); first < tensor.rows() && !failed_; first = next.fetch_add(kRows)) {
          const int64_t count = std::min(kRows, tensor.rows() - first);
          if (Status read = read_rows(tensor, first, count, rows.data(), cols); !read.ok()) return report(read.error());
          std::byte* to = memory.data() + first * cols * value_bytes;
          if (!narrow) std::memcpy(to, rows.data(), count * cols * sizeof(float));
          else
            for (size_t k = 0; k < count * cols; ++k) reinterpret_cast<uint16_t*>(to)[k] = float_to_bf16(rows[k]);
        }
      });
      if (error_) return *error_;
      checkpoint_->drop(tensor);
      weights_.tables.push_back({memory.data(), narrow ? DType::bf16 : DType::f32});
      weights_.bytes += static_cast<int64_t>(tensor.values() * value_bytes);
      weights_.memory.push_back(std::move(memory));
    }
    return {};
  }

  void report(const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = error;
    failed_ = true;
  }

  const Plan& plan_;
  std::shared_ptr<const Checkpoint> checkpoint_;
  const CpuTable& table_;
  ThreadTeam& team_;
  const LoadOptions& options_;
  TensorUsage usage_;
  Weights weights_;
  std::vector<Claimed> matrices_;
  std::vector<std::vector<const TensorInfo*>> biases_;
  std::vector<const TensorInfo*> vectors_, tables_;
  std::vector<Task> tasks_;
  int64_t total_bytes_ = 0;
  std::atomic<int64_t> done_bytes_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::optional<Error> error_;
};

}  // namespace

Result<Weights> load_weights(const Plan& plan, std::shared_ptr<const Checkpoint> checkpoint, const CpuTable& table, ThreadTeam& team,
                             const LoadOptions& options) {
  return Loader(plan, std::move(checkpoint), table, team, options).load();
}

}  // namespace weft
