#include "runtime/logits_plugin.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <exception>

#include "base/files.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "core/sampling_params.h"
#include "weft/logits_processor.h"

namespace weft {
namespace {

constexpr size_t kErrorBytes = 512;

struct Library {
  explicit Library(void* handle) : handle(handle) {}
  ~Library() { ::dlclose(handle); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  void* handle;
};

// What a plugin wrote into its room for a message, however it wrote it.
std::string message_of(char (&text)[kErrorBytes]) {
  text[kErrorBytes - 1] = 0;
  return text[0] ? text : "it gave no reason";
}

// A plugin in C++ may let an exception out in spite of the interface; it fails the rows of the call and nothing else.
template <class Call>
std::string guarded(const Call& call) {
  try {
    call();
    return "";
  } catch (const std::exception& thrown) {
    return std::string("it threw: ") + thrown.what();
  } catch (...) {
    return "it threw an exception";
  }
}

class PluginKind;

class PluginProcessor : public LogitsProcessor {
 public:
  PluginProcessor(std::shared_ptr<const PluginKind> kind, void* processor)
      : kind_(std::move(kind)), processor_(processor) {}
  ~PluginProcessor() override;
  Status process(std::span<float> logits, const SlotView& view) override;
  void* handle() const { return processor_; }

 private:
  std::shared_ptr<const PluginKind> kind_;
  void* processor_;
};

class PluginKind : public LogitsProcessorKind, public std::enable_shared_from_this<PluginKind> {
 public:
  PluginKind(std::shared_ptr<Library> library, const weft_logits_processor& functions)
      : library_(std::move(library)), functions_(functions), name_(functions.name) {}

  const std::string& name() const override { return name_; }
  bool batched() const override { return functions_.apply_batch != nullptr; }

  Result<std::shared_ptr<LogitsProcessor>> create(const std::string& params, int vocab_size) const override {
    char error[kErrorBytes] = {};
    void* processor = nullptr;
    int32_t status = 0;
    const std::string thrown =
        guarded([&] { status = functions_.create(params.c_str(), vocab_size, &processor, error, kErrorBytes); });
    if (!thrown.empty()) return failed(thrown);
    if (status != 0) return failed(message_of(error));
    return std::shared_ptr<LogitsProcessor>(std::make_shared<PluginProcessor>(shared_from_this(), processor));
  }

  void process_rows(std::span<ProcessorRow> rows) const override {
    std::vector<weft_logits_row> plain;
    std::vector<std::array<char, kErrorBytes>> errors(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      ProcessorRow& row = rows[i];
      errors[i][0] = 0;
      plain.push_back({static_cast<PluginProcessor*>(row.processor)->handle(), row.logits.data(),
                       row.view.tokens.data(), static_cast<int64_t>(row.view.tokens.size()), row.view.prompt_tokens,
                       static_cast<int32_t>(row.logits.size()), 0, errors[i].data(), kErrorBytes});
    }
    const std::string thrown = guarded([&] {
      if (functions_.apply_batch) return functions_.apply_batch(plain.data(), plain.size());
      for (weft_logits_row& row : plain) functions_.apply(&row);
    });
    for (size_t i = 0; i < rows.size(); ++i) {
      errors[i].back() = 0;
      if (!thrown.empty()) rows[i].status = failed(thrown);
      else if (plain[i].status != 0) rows[i].status = failed(errors[i][0] ? errors[i].data() : "it gave no reason");
    }
  }

  void destroy(void* processor) const {
    if (functions_.destroy) guarded([&] { functions_.destroy(processor); });
  }

 private:
  Error failed(const std::string& why) const {
    return fail(Code::internal, "logits processor ", json_quote(name_), ": ", why);
  }

  std::shared_ptr<Library> library_;
  const weft_logits_processor functions_;
  const std::string name_;
};

PluginProcessor::~PluginProcessor() { kind_->destroy(processor_); }

Status PluginProcessor::process(std::span<float> logits, const SlotView& view) {
  ProcessorRow row{logits, view, this, {}};
  kind_->process_rows({&row, 1});
  return std::move(row.status);
}

Result<std::shared_ptr<Library>> open_library(const std::string& file) {
  // Without a slash the loader would look in the system's folders; a file is meant.
  const std::string path = file.find('/') == std::string::npos ? "./" + file : file;
  if (FileStamp::at(path).bytes >= 0 && !is_file(path))  // the loader would wait for a pipe's writer
    return fail(Code::invalid_argument, path, " is not a regular file");
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle) return std::make_shared<Library>(handle);
  const char* why = ::dlerror();
  return fail(Code::invalid_argument, "--logits-processor ", file, ": ", why ? why : "it cannot be loaded")
      .about("logits-processor");
}

}  // namespace

Result<ProcessorKinds> load_logits_plugin(const std::string& file) {
  WEFT_TRY(const std::shared_ptr<Library> library, open_library(file));
  const auto wrong = [&](const auto&... why) {
    return fail(Code::invalid_argument, "--logits-processor ", file, ": ", why...).about("logits-processor");
  };
  using Entry = const weft_logits_plugin_table* (*)();
  const auto entry = reinterpret_cast<Entry>(::dlsym(library->handle, "weft_logits_plugin"));
  if (!entry) return wrong("it is no plugin: it does not export weft_logits_plugin()");
  const weft_logits_plugin_table* table = entry();
  if (!table) return wrong("weft_logits_plugin() returned no table");
  if (table->abi != WEFT_LOGITS_ABI)
    return wrong("it was built for version ", table->abi, " of weft/logits_processor.h, and this weft has version ",
                 WEFT_LOGITS_ABI);
  if (table->processor_count == 0 || !table->processors) return wrong("it has no processors");
  ProcessorKinds kinds;
  for (uint32_t i = 0; i < table->processor_count; ++i) {
    const weft_logits_processor& functions = table->processors[i];
    if (!functions.name || !functions.name[0]) return wrong("its processor ", i, " has no name");
    if (!functions.create) return wrong("its processor ", json_quote(functions.name), " has no create()");
    if (!functions.apply == !functions.apply_batch)
      return wrong("its processor ", json_quote(functions.name), " must have either apply() or apply_batch()");
    kinds.push_back(std::make_shared<const PluginKind>(library, functions));
  }
  return kinds;
}

Result<ProcessorKinds> load_logits_plugins(const std::vector<std::string>& files, ProcessorKinds more) {
  ProcessorKinds all;
  const auto add = [&all](ProcessorKinds kinds, const std::string& from) -> Status {
    for (std::shared_ptr<const LogitsProcessorKind>& kind : kinds) {
      for (const auto& other : all)
        if (other->name() == kind->name())
          return fail(Code::invalid_argument, "--logits-processor", from, ": there is a processor ",
                      json_quote(kind->name()), " already")
              .about("logits-processor");
      all.push_back(std::move(kind));
    }
    return {};
  };
  WEFT_RETURN_IF_ERROR(add(std::move(more), ""));
  for (const std::string& file : files) {
    WEFT_TRY(ProcessorKinds kinds, load_logits_plugin(file));
    WEFT_RETURN_IF_ERROR(add(std::move(kinds), " " + file));
  }
  return all;
}

Result<std::vector<NamedProcessor>> create_processors(const ProcessorKinds& kinds,
                                                      const std::vector<ProcessorChoice>& choices, int vocab_size) {
  std::vector<NamedProcessor> processors;
  for (size_t i = 0; i < choices.size(); ++i) {
    const std::string field = "logits_processors[" + std::to_string(i) + "]";
    const auto kind =
        std::find_if(kinds.begin(), kinds.end(), [&](const auto& one) { return one->name() == choices[i].name; });
    if (kind == kinds.end()) {
      std::string loaded;
      for (const auto& one : kinds) loaded += (loaded.empty() ? "; there are " : ", ") + json_quote(one->name());
      return fail(Code::invalid_argument, field, ": no logits processor ", json_quote(choices[i].name), " is loaded",
                  loaded)
          .about(field + ".name");
    }
    auto made = (*kind)->create(choices[i].params, vocab_size);
    if (!made.ok()) return fail(Code::invalid_argument, field, ": ", made.error().message()).about(field + ".params");
    processors.push_back({*kind, std::move(made).value()});
  }
  return processors;
}

}  // namespace weft
