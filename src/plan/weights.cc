#include "plan/weights.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "checkpoint/usage.h"
#include "plan/cpu_executor.h"
#include "plan/matrix_rows.h"
#include "plan/quantized_source.h"
#include "plan/weights_identity.h"

namespace weft {

using kernels::CpuTable;
using kernels::PackedMatrix;
using kernels::WeightForm;

namespace {

// Panels of one matrix that one thread packs at a time.
struct Task {
  int matrix = 0, first_panel = 0, panels = 0;
};

class Loader {
 public:
  Loader(const Plan& plan, std::shared_ptr<const Checkpoint> checkpoint, const CpuTable& table, ThreadTeam& team,
         const LoadOptions& options)
      : plan_(plan), checkpoint_(std::move(checkpoint)), table_(table), team_(team), options_(options),
        usage_(*checkpoint_) {}

  Result<Weights> load() {
    claim();
    find_others();
    WEFT_RETURN_IF_ERROR(usage_.finish());
    WEFT_RETURN_IF_ERROR(read_vectors());
    describe_matrices();
    const bool cached = options_.packed_cache && !checkpoint_->is_dummy();
    const PackedIdentity identity =
        cached ? identity_of(plan_, own(), *checkpoint_, table_, options_) : PackedIdentity();
    const bool found = cached && take_from(*options_.packed_cache, identity);
    if (!found) WEFT_RETURN_IF_ERROR(pack_all());
    WEFT_RETURN_IF_ERROR(checkpoint_->check_unchanged());
    if (cached && !found) weights_.writer = options_.packed_cache->write(identity, parts());
    return std::move(weights_);
  }

 private:
  Status pack_all() {
    WEFT_RETURN_IF_ERROR(allocate());
    pack([](int) { return true; });
    if (error_) return std::move(*error_);
    WEFT_RETURN_IF_ERROR(widen_misfits());
    return read_tables();
  }

  // Which matrices, and then tables, are this object's to pack.
  std::vector<bool> own() const {
    std::vector<bool> own;
    for (const PackedMatrix* other : elsewhere_) own.push_back(!other);
    for (size_t i = 0; i < tables_.size(); ++i) own.push_back(tables_[i] && !other_table(plan_.tables[i]));
    return own;
  }

  // What a PackedCache keeps: own matrices with their forms, then own tables with their types.
  std::vector<PackedPart> parts() const {
    const std::vector<bool> owned = own();
    std::vector<PackedPart> parts;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const PackedMatrix& m = weights_.matrices[i];
      if (owned[i]) parts.push_back({static_cast<uint64_t>(m.form), {m.data, panels_of(m) * m.panel_bytes}});
    }
    for (size_t i = 0; i < tables_.size(); ++i) {
      const EmbeddingTable& table = weights_.tables[i];
      if (owned[matrices_.size() + i])
        parts.push_back({static_cast<uint64_t>(table.type),
                         {static_cast<const std::byte*>(table.rows), table_bytes(*tables_[i], table.type)}});
    }
    return parts;
  }

  // False: it has no such file, and nothing has changed.
  bool take_from(const PackedCache& cache, const PackedIdentity& identity) {
    auto found = cache.find(identity, team_, options_.first_thread, options_.threads);
    if (!found) return false;
    const std::vector<bool> owned = own();
    std::vector<PackedMatrix> matrices = weights_.matrices;
    std::vector<EmbeddingTable> tables;
    size_t next = 0;
    const auto part = [&](size_t bytes_of_old, uint64_t tag) -> const std::byte* {
      const bool fits = next < found->parts.size() && found->parts[next].tag == tag &&
                        found->parts[next].bytes.size() == bytes_of_old;
      return fits ? found->parts[next++].bytes.data() : nullptr;
    };
    for (size_t i = 0; i < matrices.size(); ++i) {
      PackedMatrix& m = matrices[i];
      if (!owned[i]) continue;
      if (m.form == WeightForm::bf12 && next < found->parts.size() &&
          found->parts[next].tag == static_cast<uint64_t>(WeightForm::bf16))
        m.form = WeightForm::bf16, m.panel_bytes = panel_bytes(m);  // its weights did not fit into 12 bits
      m.data = part(panels_of(m) * m.panel_bytes, static_cast<uint64_t>(m.form));
      if (!m.data) return false;
    }
    for (size_t i = 0; i < tables_.size(); ++i) {
      const EmbeddingTable* const other = other_table(plan_.tables[i]);
      if (!owned[matrices_.size() + i]) {
        tables.push_back(!tables_[i] ? options_.lent.table : *other);
        continue;
      }
      const DType type = table_type(*tables_[i]);
      tables.push_back({part(table_bytes(*tables_[i], type), static_cast<uint64_t>(type)), type});
      if (!tables.back().rows) return false;
    }
    weights_.matrices = std::move(matrices), weights_.tables = std::move(tables);
    int64_t bytes = 0;
    for (const PackedPart& each : found->parts) bytes += static_cast<int64_t>(each.bytes.size());
    weights_.bytes += bytes;
    weights_.file = std::move(*found);
    if (options_.progress) options_.progress(bytes, bytes);
    return true;
  }

  void claim() {
    for (const Matrix& m : plan_.matrices) {
      Claimed claimed{&m, {}};
      for (const TensorRows& source : m.sources)
        if (source.borrowed == Borrowed::no)
          claimed.sources.push_back(usage_.take(source.tensor, shape_of(source, m.tensor_k > 0 ? m.tensor_k : m.k)));
      matrices_.push_back(std::move(claimed));
      std::vector<const TensorInfo*> biases;
      for (const TensorRows& bias : m.biases)
        biases.push_back(bias.tensor.empty() ? nullptr : usage_.take(bias.tensor, bias_shape(bias)));
      biases_.push_back(std::move(biases));
    }
    for (const VectorWeight& v : plan_.vectors) {
      const std::string& tensor = v.tensor.empty() ? v.divided_by : v.tensor;
      vectors_.push_back(tensor.empty() ? nullptr : usage_.take(tensor, {v.size}));
    }
    for (size_t i = 0; i < plan_.tables.size(); ++i)
      tables_.push_back(plan_.tables[i].borrowed != Borrowed::no
                            ? nullptr
                            : usage_.take(plan_.tables[i].tensor, shape_of(plan_.tables[i], plan_.table_cols[i])));
    for (const std::string& name : plan_.unused) usage_.ignore(name);
  }

  // Matrices that lie somewhere else already.
  void find_others() {
    std::multimap<std::string, std::pair<const Matrix*, const PackedMatrix*>> others;  // by first tensor
    for (const LoadOptions::Other& other : options_.others)
      for (size_t i = 0; i < other.plan->matrices.size(); ++i)
        others.emplace(other.plan->matrices[i].sources.front().tensor,
                       std::pair(&other.plan->matrices[i], &other.weights->matrices[i]));
    for (const Matrix& m : plan_.matrices) {
      const PackedMatrix*& found = elsewhere_.emplace_back(nullptr);
      if (m.borrowed() == Borrowed::head) found = &options_.lent.head;
      if (m.borrowed() == Borrowed::embedding) found = &options_.lent.embedding;
      const auto [first, last] = others.equal_range(m.sources.front().tensor);
      for (auto other = first; !found && other != last; ++other)
        if (*other->second.first == m) found = other->second.second;
    }
  }

  static std::vector<int64_t> shape_of(const TensorRows& source, int k) {
    return source.shape.empty() ? std::vector<int64_t>{source.first_row + source.rows, k} : source.shape;
  }

  static std::vector<int64_t> bias_shape(const TensorRows& bias) {
    return bias.shape.empty() ? std::vector<int64_t>{bias.first_row + bias.rows} : bias.shape;
  }

  Status read_vectors() {
    for (size_t i = 0; i < plan_.vectors.size(); ++i) {
      std::vector<float> values = plan_.vectors[i].values;
      if (vectors_[i]) {
        WEFT_TRY(std::vector<float> read, read_all(*vectors_[i]));
        if (values.empty()) values = std::move(read);
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
      if (plan_.matrices[i].gated && !values.empty()) {
        const std::vector<float> stacked = std::move(values);
        values.resize(stacked.size());
        for (size_t n = 0; n < values.size(); ++n)
          values[n] = stacked[static_cast<size_t>(stacked_row(plan_.matrices[i], static_cast<int64_t>(n)))];
      }
      weights_.bias_values.push_back(std::move(values));
    }
    for (const std::vector<float>& values : weights_.bias_values)
      weights_.biases.push_back(values.empty() ? nullptr : values.data());
    return {};
  }

  // The matrices as they will be packed, without their memory.
  void describe_matrices() {
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const Matrix& m = *matrices_[i].matrix;
      if (elsewhere_[i]) {
        weights_.matrices.push_back(*elsewhere_[i]);
        continue;
      }
      const kernels::WeightFormat format = format_of(m, options_.form);
      const WeightForm form = format.form == WeightForm::bf16 && may_pack(m) ? WeightForm::bf12 : format.form;
      PackedMatrix packed{
          form,          static_cast<int>(m.out()), m.k, table_.panel_cols(form), 0, m.shards(), nullptr, format.groups,
          format.operand};
      packed.panel_bytes = panel_bytes(packed);
      weights_.matrices.push_back(packed);
    }
  }

  size_t panel_bytes(const PackedMatrix& m) const {
    return is_quantized(m.form) ? table_.quantized_panel_bytes(m.form, m.groups, m.k) : table_.panel_bytes(m.form, m.k);
  }

  // One piece of memory for all matrices: many are smaller than a large page.
  Status allocate() {
    size_t end = 0;
    std::vector<size_t> offsets;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      offsets.push_back(end);
      const PackedMatrix& m = weights_.matrices[i];
      if (!elsewhere_[i]) end += (panels_of(m) * m.panel_bytes + 63) / 64 * 64;
    }
    WEFT_TRY(Memory memory, Memory::reserve(end + kernels::kReadAhead, true));
    for (size_t i = 0; i < offsets.size(); ++i)
      if (!elsewhere_[i]) weights_.matrices[i].data = memory.data() + offsets[i];
    weights_.memory.push_back(std::move(memory));
    weights_.bytes += static_cast<int64_t>(end);
    total_bytes_ = static_cast<int64_t>(end);
    misfits_ = std::vector<std::atomic<bool>>(matrices_.size());
    return {};
  }

  bool may_pack(const Matrix& m) const {
    return options_.pack && table_.pack_panel_bf12 && (m.shards() == 1 || m.k / m.shards() % kernels::kStrip == 0);
  }

  // Matrices whose weights did not fit into 12 bits are packed again as they are, into memory of their own.
  Status widen_misfits() {
    bool any = false;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      if (!misfits_[i]) continue;
      PackedMatrix& packed = weights_.matrices[i];
      const size_t before = panels_of(packed) * packed.panel_bytes;
      packed.form = WeightForm::bf16, packed.panel_bytes = panel_bytes(packed);
      const size_t bytes = panels_of(packed) * packed.panel_bytes;
      WEFT_TRY(Memory memory, Memory::reserve(bytes + kernels::kReadAhead, true));
      packed.data = memory.data();
      weights_.memory.push_back(std::move(memory));
      weights_.bytes += static_cast<int64_t>(bytes) - static_cast<int64_t>(before);
      total_bytes_ += static_cast<int64_t>(bytes);
      any = true;
    }
    if (any) pack([&](int matrix) { return misfits_[static_cast<size_t>(matrix)].load(); });
    if (error_) return std::move(*error_);
    return {};
  }

  static size_t panels_of(const PackedMatrix& packed) {
    return (static_cast<size_t>(packed.out) + packed.panel - 1) / packed.panel;
  }

  int readers() const { return options_.threads > 0 ? options_.threads : team_.size(); }

  // Every thread packs the panels that the kernels will give it, so that they lie in memory near it, about 1 MB at a
  // time, and then helps the others - unless these sit at another NUMA node.
  struct Queue {
    std::vector<Task> tasks;
    std::atomic<size_t> next{0};
  };
  template <class Wanted>
  std::vector<Queue> make_queues(Wanted wanted) const {
    const auto threads = static_cast<size_t>(readers());
    std::vector<Queue> queues(threads);
    for (size_t m = 0; m < matrices_.size(); ++m) {
      if (!wanted(static_cast<int>(m)) || elsewhere_[m]) continue;
      const PackedMatrix& packed = weights_.matrices[m];
      const size_t panels = panels_of(packed), per_task = std::max<size_t>(1, (size_t{1} << 20) / packed.panel_bytes);
      for (size_t i = 0; i < threads; ++i)
        for (size_t first = panels * i / threads, last = panels * (i + 1) / threads; first < last; first += per_task)
          queues[i].tasks.push_back(
              {static_cast<int>(m), static_cast<int>(first), static_cast<int>(std::min(per_task, last - first))});
    }
    return queues;
  }

  // Packs the matrices that are `wanted` (by index).
  template <class Wanted>
  void pack(Wanted wanted) {
    std::vector<Queue> queues = make_queues(wanted);
    std::vector<std::atomic<int>> left(matrices_.size());
    for (const Queue& queue : queues)
      for (const Task& task : queue.tasks) ++left[task.matrix];
    const ThreadTeam::Seat seat(team_);
    team_.run([&](int thread) {
      std::vector<float> rows;
      AlignedPanel plain;
      const int reader = thread - options_.first_thread;
      const bool reads = reader >= 0 && reader < readers();
      const size_t helped = !team_.spans_nodes() ? queues.size() : reads ? 1 : 0;
      for (size_t i = 0; i < helped; ++i) {
        Queue& queue = queues[(static_cast<size_t>(std::abs(reader)) + i) % queues.size()];
        for (size_t t = queue.next++; t < queue.tasks.size() && !failed_; t = queue.next++) {
          const Task& task = queue.tasks[t];
          pack_task(task, rows, plain);
          drop_sources(task, --left[task.matrix] == 0);
          const int64_t done = done_bytes_ +=
              static_cast<int64_t>(task.panels * weights_.matrices[task.matrix].panel_bytes);
          if (options_.progress) options_.progress(done, total_bytes_);
        }
      }
    });
  }

  // Lets the pages go that the task has read; with `all` those of the whole matrix, which the tasks' borders lie in
  // too.
  void drop_sources(const Task& task, bool all) const {
    const Claimed& claimed = matrices_[task.matrix];
    const PackedMatrix& packed = weights_.matrices[task.matrix];
    if (all) {
      for (const TensorInfo* source : claimed.sources) checkpoint_->drop(*source);
      return;
    }
    const int64_t first = int64_t{task.first_panel} * packed.panel,
                  count = std::min<int64_t>(int64_t{task.panels} * packed.panel, packed.out - first);
    const auto drop = [&](const TensorRows& rows, const TensorInfo& tensor, int64_t at, int64_t n, int64_t) -> Status {
      const Matrix& m = *claimed.matrix;
      if (!rows.transposed && tensor.cols() == (m.tensor_k > 0 ? m.tensor_k : m.k))
        checkpoint_->drop(tensor, rows.first_row + at, n);
      return {};
    };
    if (!claimed.matrix->gated) {
      (void)each_stacked(claimed, first, count, drop);
      return;
    }
    for (const int64_t half : {int64_t{0}, int64_t{packed.out / 2}})
      (void)each_stacked(claimed, half + first / 2, count / 2, drop);
  }

  // A panel of bfloat16 before it goes into 12 bits.
  struct AlignedPanel {
    std::vector<std::byte> bytes;
    std::byte* of(size_t size) {
      bytes.resize(std::max(bytes.size(), size + 64));
      return bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
    }
  };

  void pack_task(const Task& task, std::vector<float>& rows, AlignedPanel& plain) {
    const PackedMatrix& packed = weights_.matrices[task.matrix];
    const Claimed& claimed = matrices_[task.matrix];
    for (int panel = task.first_panel; panel < task.first_panel + task.panels; ++panel) {
      // The memory is this loader's own; readers get it as const.
      std::byte* to = const_cast<std::byte*>(packed.data) + panel * packed.panel_bytes;
      const int first = panel * packed.panel, count = std::min(packed.panel, packed.out - first);
      if (packed.form == WeightForm::bf12) {
        if (misfits_[static_cast<size_t>(task.matrix)]) return;
        std::byte* panel_bf16 = plain.of(table_.panel_bytes(WeightForm::bf16, packed.k));
        if (!pack_bf16(packed, claimed, first, count, rows, panel_bf16)) return;
        if (!table_.pack_panel_bf12(packed.k, panel_bf16, to)) misfits_[static_cast<size_t>(task.matrix)] = true;
        continue;
      }
      if (packed.form == WeightForm::bf16) {
        if (!pack_bf16(packed, claimed, first, count, rows, to)) return;
        continue;
      }
      if (is_quantized(packed.form)) {
        if (Status read = pack_quantized(packed, claimed, first, count, rows, to); !read.ok())
          return report(read.error());
        continue;
      }
      rows.resize(static_cast<size_t>(packed.panel) * packed.k);
      if (Status read = gather(claimed, first, count, rows.data()); !read.ok()) return report(read.error());
      table_.pack_panel(packed.form, rows.data(), packed.k, count, packed.k, to);
    }
  }

  // False after an error, which is reported.
  bool pack_bf16(const PackedMatrix& packed, const Claimed& claimed, int first, int count, std::vector<float>& rows,
                 std::byte* to) {
    rows.resize(static_cast<size_t>(packed.panel) * packed.k);
    if (pack_plain(claimed, first, count, reinterpret_cast<uint16_t*>(rows.data()), to)) return true;
    if (Status read = gather(claimed, first, count, rows.data()); !read.ok()) return report(read.error()), false;
    table_.pack_panel(WeightForm::bf16, rows.data(), packed.k, count, packed.k, to);
    return true;
  }

  // Codes as they are stored where the matrix is kept in its bits; else floats that are quantised here.
  Status pack_quantized(const PackedMatrix& packed, const Claimed& claimed, int first, int count,
                        std::vector<float>& rows, std::byte* to) const {
    QuantizedSource source(packed.format(), packed.k, claimed.matrix->first_k);
    const bool stored = options_.quantize == Quantize::none;
    if (!stored) {
      rows.resize(static_cast<size_t>(packed.panel) * packed.k);
      WEFT_RETURN_IF_ERROR(gather(claimed, first, count, rows.data()));
      for (int r = 0; r < count; ++r) source.append_floats(rows.data() + static_cast<size_t>(r) * packed.k);
    } else {
      WEFT_RETURN_IF_ERROR(
          each_source(claimed, first, count,
                      [&](const TensorRows& rows_of, const TensorInfo& tensor, int64_t at, int64_t n, int64_t) {
                        return rows_of.transposed ? source.append_transposed(tensor, rows_of, at, n)
                                                  : source.append_stored(tensor, rows_of.first_row + at, n);
                      }));
    }
    table_.pack_panel_quantized(packed.form, packed.groups, source.rows(), to);
    return {};
  }

  // Rows that lie as bfloat16 in their tensors need no detour over float32. `together`: room for rows of several
  // places.
  bool pack_plain(const Claimed& claimed, int first, int count, uint16_t* together, std::byte* to) const {
    const int k = claimed.matrix->k;
    const uint16_t* from = together;
    int64_t ld = k;
    MappedFile::Pin pin;  // of the rows that lie together
    const Status plain = each_source(
        claimed, first, count,
        [&](const TensorRows& rows, const TensorInfo& tensor, int64_t at, int64_t n, int64_t place) -> Status {
          const int64_t tensor_k = claimed.matrix->tensor_k > 0 ? claimed.matrix->tensor_k : k;
          const std::byte* data = tensor.data.data() + ((rows.first_row + at) * tensor_k + claimed.matrix->first_k) * 2;
          if (!tensor.is_plain() || tensor.type != StorageType::bf16 || rows.transposed ||
              reinterpret_cast<uintptr_t>(data) % 2 != 0)
            return Error(Code::unsupported, "");
          WEFT_TRY(pin, tensor.pin(std::span(data, static_cast<size_t>((n - 1) * tensor_k + k) * 2)));
          if (n == count) from = reinterpret_cast<const uint16_t*>(data), ld = tensor_k;
          else
            for (int64_t i = 0; i < n; ++i)
              std::memcpy(together + (place + i) * k, data + i * tensor_k * 2, static_cast<size_t>(k) * 2);
          return {};
        });
    if (plain.ok()) table_.pack_panel_bf16(from, ld, count, k, to);
    return plain.ok();
  }

  const EmbeddingTable* other_table(const TensorRows& table) const {
    for (const LoadOptions::Other& other : options_.others) {
      const std::vector<TensorRows>& tables = other.plan->tables;
      const auto found = std::find(tables.begin(), tables.end(), table);
      if (found != tables.end()) return &other.weights->tables[static_cast<size_t>(found - tables.begin())];
    }
    return nullptr;
  }

  // Whether a table's rows are copied as they are stored; else they are widened.
  static bool is_direct(const TensorInfo& tensor) {
    return tensor.is_plain() &&
           (tensor.type == StorageType::f32 || tensor.type == StorageType::bf16 || tensor.type == StorageType::f16);
  }
  DType table_type(const TensorInfo& tensor) const {
    if (is_direct(tensor)) return *plain_dtype(tensor.type);
    return options_.form == WeightForm::f32 ? DType::f32 : DType::bf16;
  }
  static size_t table_bytes(const TensorInfo& tensor, DType type) {
    return static_cast<size_t>(tensor.values()) * (type == DType::f32 ? 4 : 2);
  }

  Status read_tables() {
    for (size_t i = 0; i < tables_.size(); ++i) {
      if (!tables_[i]) {
        weights_.tables.push_back(options_.lent.table);
        continue;
      }
      if (const EmbeddingTable* other = other_table(plan_.tables[i])) {
        weights_.tables.push_back(*other);
        continue;
      }
      const TensorInfo& tensor = *tables_[i];
      const DType type = table_type(tensor);
      const bool direct = is_direct(tensor), narrow = type != DType::f32;
      const size_t value_bytes = narrow ? 2 : 4, cols = static_cast<size_t>(tensor.cols());
      WEFT_TRY(Memory memory, Memory::reserve(table_bytes(tensor, type), true));
      std::atomic<int64_t> next{0};
      constexpr int64_t kRows = 64;
      team_.run([&](int) {
        std::vector<float> rows(direct ? 0 : kRows * cols);
        for (int64_t first = next.fetch_add(kRows); first < tensor.rows() && !failed_; first = next.fetch_add(kRows)) {
          const int64_t count = std::min(kRows, tensor.rows() - first);
          std::byte* to = memory.data() + static_cast<size_t>(first) * cols * value_bytes;
          if (direct) {
            if (Status copied = copy_rows(tensor, first, count, to); !copied.ok()) return report(copied.error());
            continue;
          }
          if (Status read = read_rows(tensor, first, count, rows.data(), cols); !read.ok()) return report(read.error());
          if (!narrow) std::memcpy(to, rows.data(), count * cols * sizeof(float));
          else
            for (size_t k = 0; k < count * cols; ++k) reinterpret_cast<uint16_t*>(to)[k] = float_to_bf16(rows[k]);
        }
      });
      if (error_) return *error_;
      checkpoint_->drop(tensor);
      weights_.tables.push_back({memory.data(), type});
      weights_.bytes += static_cast<int64_t>(table_bytes(tensor, type));
      weights_.memory.push_back(std::move(memory));
    }
    return {};
  }

  // Rows as they are stored.
  Status copy_rows(const TensorInfo& tensor, int64_t first, int64_t count, std::byte* to) const {
    WEFT_TRY(const MappedFile::Pin pin, tensor.pin(first, count));
    const size_t row_bytes = tensor.data.size() / static_cast<size_t>(tensor.rows());
    std::memcpy(to, tensor.data.data() + static_cast<size_t>(first) * row_bytes,
                static_cast<size_t>(count) * row_bytes);
    checkpoint_->drop(tensor, first, count);
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
  std::vector<const PackedMatrix*> elsewhere_;  // per matrix; null: packed here
  std::vector<std::atomic<bool>> misfits_;      // by matrix: it does not fit into 12 bits a weight
  std::vector<std::vector<const TensorInfo*>> biases_;
  std::vector<const TensorInfo*> vectors_, tables_;
  int64_t total_bytes_ = 0;
  std::atomic<int64_t> done_bytes_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::optional<Error> error_;
};

}  // namespace

Result<Weights> load_weights(const Plan& plan, std::shared_ptr<const Checkpoint> checkpoint, const CpuTable& table,
                             ThreadTeam& team, const LoadOptions& options) {
  return Loader(plan, std::move(checkpoint), table, team, options).load();
}

}  // namespace weft
