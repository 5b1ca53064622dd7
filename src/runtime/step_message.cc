#include "runtime/step_message.h"

namespace weft {

namespace {

// ---- Images, of cross attention ------------------------------------------------------------------------------------

void write_media(const MediaPrompt& media, ByteWriter& to) {
  to.put_all(media.real_rows);
  to.put(media.features.size());
  for (const auto& features : media.features)
    to.put(features->rows), to.put(features->cols), to.put_all(features->values);
}

std::shared_ptr<const MediaPrompt> read_media(ByteReader& from) {
  const auto media = std::make_shared<MediaPrompt>();
  media->real_rows = from.take_all<int>();
  const auto count = from.take<size_t>();
  for (size_t i = 0; i < count; ++i) {
    const auto features = std::make_shared<MediaFeatures>();
    features->rows = from.take<int>(), features->cols = from.take<int>(), features->values = from.take_all<float>();
    media->features.push_back(features);
  }
  return media;
}

// ---- Inputs --------------------------------------------------------------------------------------------------------

template <class T>
std::span<const T> first(const std::vector<T>& values, int count) {
  return std::span<const T>(values).first(static_cast<size_t>(count));
}

// Views point into the inputs' own lists, at the row's place.
struct View {
  int first_row, rows, first_position;
  int64_t table_offset;
  bool ends, starts;
};

void write_views(const GroupInputs& group, ByteWriter& to) {
  to.put(group.sequences.size());
  for (const kernels::SequenceView& s : group.sequences)
    to.put(View{s.first_row, s.rows, s.first_position, s.table_offset, s.ends != nullptr, s.starts != nullptr});
}

void read_views(ByteReader& from, GroupInputs& group, const std::vector<int32_t>& ends,
                const std::vector<int32_t>& starts) {
  group.sequences.clear();
  const auto count = from.take<size_t>();
  for (size_t i = 0; i < count; ++i) {
    const View v = from.take<View>();
    group.sequences.push_back({v.first_row, v.rows, v.first_position, v.table_offset,
                               v.ends ? ends.data() + v.first_row : nullptr,
                               v.starts ? starts.data() + v.first_row : nullptr});
  }
}

// Rows of features in place of embeddings, `cols` floats each.
void write_features(const StepInputs& in, int cols, ByteWriter& to) {
  int count = 0;
  for (const float* row : first(in.features, in.tokens)) count += row != nullptr;
  to.put(count);
  for (int r = 0; r < in.tokens; ++r)
    if (in.features[r]) to.put(r), to.put_all(std::span(in.features[r], static_cast<size_t>(cols)));
}

void read_features(ByteReader& from, StepInputs& in) {
  std::fill_n(in.features.begin(), in.tokens, nullptr);
  const auto count = static_cast<size_t>(from.take<int>());
  if (in.own_features.size() < count) in.own_features.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const int row = from.take<int>();
    from.take_into(in.own_features[i]);
    in.features[row] = in.own_features[i].data();
  }
}

void write_home(const StepInputs& in, const Plan& plan, bool adapters, ByteWriter& to) {
  to.put(in.tokens), to.put(in.outputs);
  to.put_all(first(in.ids, in.tokens));
  const size_t stride = in.positions.size() / static_cast<size_t>(plan.position_axes);
  for (int axis = 0; axis < plan.position_axes; ++axis)
    to.put_all(std::span<const int32_t>(in.positions).subspan(axis * stride, static_cast<size_t>(in.tokens)));
  to.put_all(first(in.token_types, in.tokens));
  if (adapters) to.put_all(first(in.adapter_of, in.tokens));
  to.put_all(first(in.output_rows, in.outputs)), to.put_all(first(in.summary_bytes, in.outputs));
  if (plan.joined_images) to.put_all(first(in.ends, in.tokens));
  for (const auto* groups : {&in.groups, &in.local_groups})
    for (const GroupInputs& group : *groups) write_views(group, to);
  if (plan.takes_features) write_features(in, plan.feature_cols, to);
  if (!plan.cross_group) return;
  to.put_all(first(in.cross_starts, in.tokens)), to.put_all(first(in.cross_ends, in.tokens));
  to.put_all(first(in.row_flags, in.tokens));
  to.put(in.has_images);
  to.put_all(in.cross.block_table);
  write_views(in.cross, to);
}

void read_home(ByteReader& from, const Plan& plan, bool adapters, StepInputs& in) {
  in.tokens = from.take<int>(), in.outputs = from.take<int>();
  from.take_into(in.ids);
  const size_t stride = in.positions.size() / static_cast<size_t>(plan.position_axes);
  for (int axis = 0; axis < plan.position_axes; ++axis) {
    const std::vector<int32_t> positions = from.take_all<int32_t>();
    std::copy(positions.begin(), positions.end(), in.positions.begin() + static_cast<ptrdiff_t>(axis * stride));
  }
  from.take_into(in.token_types);
  if (adapters) from.take_into(in.adapter_of);
  from.take_into(in.output_rows), from.take_into(in.summary_bytes);
  if (plan.joined_images) from.take_into(in.ends);
  for (auto* groups : {&in.groups, &in.local_groups})
    for (GroupInputs& group : *groups) read_views(from, group, in.ends, in.ends);
  if (plan.takes_features) read_features(from, in);
  if (!plan.cross_group) return;
  from.take_into(in.cross_starts), from.take_into(in.cross_ends), from.take_into(in.row_flags);
  in.has_images = from.take<bool>();
  in.cross.block_table = from.take_all<int32_t>();
  read_views(from, in.cross, in.cross_ends, in.cross_starts);
}

}  // namespace

void write_changes(const StepBatch& batch, ByteWriter& to) {
  to.put_all(batch.closes);
  to.put(batch.opens.size());
  for (const SlotOpen& open : batch.opens) {
    const bool keys = open.media && !open.media->cross.empty();
    to.put(open.slot), to.put(open.home), to.put(keys);
    if (keys) write_media(*open.media, to);
  }
  to.put_all(batch.copies), to.put_all(batch.releases), to.put_all(batch.entries);
}

void read_changes(ByteReader& from, StepBatch& batch) {
  batch.clear();
  batch.closes = from.take_all<Slot>();
  const auto opens = from.take<size_t>();
  for (size_t i = 0; i < opens; ++i) {
    SlotOpen& open = batch.opens.emplace_back();
    open.slot = from.take<Slot>(), open.home = from.take<int>();
    if (from.take<bool>()) open.media = read_media(from);
  }
  batch.copies = from.take_all<BlockCopy>(), batch.releases = from.take_all<BlockRelease>();
  batch.entries = from.take_all<TableEntry>();
}

void write_inputs(const RankedExecutor& executor, const Plan& whole, ByteWriter& to) {
  for (int home = 0; home < executor.homes(); ++home)
    write_home(executor.inputs(home), whole, executor.takes_adapters(), to);
}

void read_inputs(ByteReader& from, const Plan& whole, RankedExecutor& executor) {
  for (int home = 0; home < executor.homes(); ++home)
    read_home(from, whole, executor.takes_adapters(), executor.inputs(home));
}

void write_adapter(int number, const AdapterFiles* files, ByteWriter& to) {
  to.put(number), to.put(files != nullptr);
  if (!files) return;
  for (const std::string* text : {&files->path, &files->file, &files->config, &files->tensors})
    to.put_all(std::span<const char>(*text));
}

std::optional<AdapterFiles> read_adapter(ByteReader& from, int& number) {
  number = from.take<int>();
  if (!from.take<bool>()) return std::nullopt;
  AdapterFiles files;
  for (std::string* text : {&files.path, &files.file, &files.config, &files.tensors}) {
    const std::vector<char> bytes = from.take_all<char>();
    text->assign(bytes.begin(), bytes.end());
  }
  return files;
}

void write_draft_rows(std::span<const DraftRow> rows, ByteWriter& to) {
  to.put(rows.size());
  for (const DraftRow& row : rows) {
    to.put(row.slot), to.put(row.first_row), to.put(row.rows), to.put(row.first_position), to.put(row.token);
    to.put_all(row.next);
    to.put(row.drafts), to.put(row.first_key), to.put(row.end);
    if (row.drafts > 0) to.put(row.noise);
  }
}

void read_draft_rows(ByteReader& from, ReadDraftRows& into) {
  const auto count = from.take<size_t>();
  into.rows.assign(count, {});
  into.next.resize(count), into.out.resize(count);
  for (size_t i = 0; i < count; ++i) {
    DraftRow& row = into.rows[i];
    row.slot = from.take<Slot>(), row.first_row = from.take<int>(), row.rows = from.take<int>();
    row.first_position = from.take<int>(), row.token = from.take<int32_t>();
    into.next[i] = from.take_all<int32_t>();
    row.next = into.next[i];
    row.drafts = from.take<int>(), row.first_key = from.take<int>(), row.end = from.take<int>();
    row.out = &into.out[i];
    if (row.drafts > 0) row.noise = from.take<DraftNoise>();
  }
}

}  // namespace weft
