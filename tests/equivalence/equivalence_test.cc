// The promise of docs/exactness.md: no feature changes a bit of an answer. One list of features; from it every feature
// alone, every pair and all together are run over a mixed set of requests and compared with the plain run, in which
// everything is off and one request is computed at a time. A new feature is one more entry of kFeatures.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "equivalence/requests.h"
#include "kernels/kernels.h"
#include "support/answers.h"
#include "support/scripted_drafter.h"

namespace weft::testing {
namespace {

struct Arrangement {
  EngineOptions options;
  AskOptions ask;
  bool other_server = false;          // another engine, of a single rank, computes the prompts
  std::shared_ptr<Drafter> scripted;  // proposes the plain run's answers, with wrong tokens among them
};

struct Model {
  const char* name;
  int tight_tokens;  // a cache of so many tokens makes running sequences lose their blocks
  std::initializer_list<ComputeType> dtypes;
  bool pairs_ranks = false;  // ranks meet all other features; else each kind of ranks runs alone
};

struct Feature {
  const char* name;
  void (*off)(Arrangement&);
  void (*on)(Arrangement&, const ModelInfo&, const Model&);
  // Whether the run shows that the feature was at work; null: nothing to see from outside.
  bool (*seen)(const std::vector<Answer>&, const EngineMetrics&) = nullptr;
};

bool some_cached(const std::vector<Answer>& answers, const EngineMetrics&) {
  for (const Answer& answer : answers)
    if (answer.usage.cached_tokens > 0) return true;
  return false;
}

bool some_drafted(const std::vector<Answer>&, const EngineMetrics& m) { return m.core.scheduler.drafted[0] > 0; }

// A draft of each kind that there is data for; else the model itself drafts, as an engine of its own.
SpeculationOptions model_drafts(const Model& model, const std::string& folder) {
  const std::string_view name = model.name;
  SpeculationOptions drafts{.method = DraftMethod::draft_model, .model = folder, .num_tokens = 2};
  if (name == "deepseek-v3") drafts = {.method = DraftMethod::mtp, .num_tokens = 3};
  if (name == "llama-3.1" || name == "qwen3-moe") {
    drafts = {.method = DraftMethod::eagle3, .num_tokens = 3};
    drafts.model = test_data(name == "llama-3.1" ? "drafts/eagle3-llama-3.1" : "drafts/eagle3-qwen3-moe-speculators");
    drafts.one_model = name == "llama-3.1";
  }
  return drafts;
}

bool some_accepted(const std::vector<Answer>&, const EngineMetrics& m) {
  const SchedulerMetrics& s = m.core.scheduler;
  return s.accepted[0] > 0 && s.accepted[0] < s.drafted[0];
}

// For the blocks of this program's engines; gone when it ends.
const std::string& tier_folder() {
  struct Folder {
    std::string name = (std::filesystem::temp_directory_path() / "weft_equivalence_XXXXXX").string();
    Folder() { EXPECT_NE(::mkdtemp(name.data()), nullptr); }
    ~Folder() { std::filesystem::remove_all(name); }
  };
  static const Folder folder;
  return folder.name;
}

constexpr Feature kFeatures[] = {
    {"batch", [](Arrangement& s) { s.options.max_batch_size = 1; },
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.max_batch_size = 16; }},
    {"chunked_prefill", [](Arrangement& s) { s.options.enable_chunked_prefill = false; },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.enable_chunked_prefill = true, s.options.max_num_tokens = 48, s.options.max_batch_size = 8;
     }},
    {"small_chunks", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.enable_chunked_prefill = true, s.options.max_num_tokens = 17, s.options.chunked_prefill_size = 16,
       s.options.max_batch_size = 5;
     },
     [](const std::vector<Answer>&, const EngineMetrics& m) { return m.core.prefill_budget == 16; }},
    // No step is that short, so prompts come in the smallest pieces.
    {"step_time", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.max_step_ms = 0.001, s.options.enable_chunked_prefill = true;
     },
     [](const std::vector<Answer>&, const EngineMetrics& m) { return m.core.prefill_budget == 16; }},
    {"block_reuse", [](Arrangement& s) { s.options.enable_block_reuse = false; },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.enable_block_reuse = true, s.options.max_batch_size = 4;
     },
     some_cached},
    // What one engine leaves in the folder, the pairs behind it find there.
    {"tier", [](Arrangement& s) { s.options.kv_cache_tier.clear(); },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.kv_cache_tier = tier_folder(), s.options.kv_cache_tier_bytes = int64_t{1} << 30;
       s.options.kv_cache_tier_use = TierUse::always, s.options.enable_block_reuse = true;
     },
     [](const std::vector<Answer>&, const EngineMetrics& m) {
       return m.core.tier.imports > 0 || m.core.tier.store.writes > 0;
     }},
    {"other_server", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.other_server = true, s.options.role = ServerRole::generation, s.options.enable_block_reuse = true;
       s.options.max_batch_size = 8;
     },
     [](const std::vector<Answer>&, const EngineMetrics& m) {
       return m.core.transfer.fetched.complete > 0 && m.core.transfer.fetched.failures == 0;
     }},
    {"blocks_of_16", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.tokens_per_block = 16; }},
    {"overlap", [](Arrangement& s) { s.options.overlap_scheduler = false; },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.overlap_scheduler = true, s.options.max_batch_size = 8;
     }},
    {"replay", [](Arrangement& s) { s.options.cuda_graph = false; },
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.cuda_graph = true, s.options.max_batch_size = 8; }},
    {"fused_sampler", [](Arrangement& s) { s.options.sampler = SamplerKind::reference; },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.sampler = SamplerKind::fused, s.options.max_batch_size = 8;
     }},
    {"threads", [](Arrangement& s) { s.options.threads = 1; },
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.threads = 3; }},
    {"packed_weights", [](Arrangement& s) { s.options.pack_weights = PackWeights::off; },
     [](Arrangement& s, const ModelInfo& info, const Model&) {
       const bool possible =
           kernels::cpu_table()->pack_panel_bf12 && info.dtype == "bfloat16" && s.options.quantize == Quantize::none;
       s.options.pack_weights = possible ? PackWeights::on : PackWeights::automatic;
     }},
    // Ranks, and ranks with rows of their own.
    {"tp2", [](Arrangement& s) { s.options.tp_size = 1; },
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.tp_size = 2, s.options.max_batch_size = 8; }},
    {"tp4", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.tp_size = 4, s.options.max_batch_size = 4; }},
    {"ep2", [](Arrangement& s) { s.options.ep_size = 0; },
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.ep_size = 2, s.options.max_batch_size = 6; }},
    // Parts of each expert.
    {"expert_width", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.tp_size = std::max(s.options.tp_size, 2), s.options.ep_size = 1, s.options.max_batch_size = 6;
     }},
    {"adp2", [](Arrangement& s) { s.options.enable_attention_dp = false; },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.tp_size = std::max(s.options.tp_size, 2), s.options.enable_attention_dp = true;
       s.options.max_batch_size = 8;
     }},
    // Stages with a step each.
    {"pp2", [](Arrangement& s) { s.options.pp_size = 1; },
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.pp_size = 2, s.options.overlap_scheduler = true, s.options.max_batch_size = 12;
     },
     [](const std::vector<Answer>&, const EngineMetrics& m) { return m.core.busy_stages > m.core.turns * 5 / 4; }},
    // A cache with room for little more than the longest sequence, so that running ones lose their blocks and start
    // again.
    {"preemption", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo& info, const Model& model) {
       s.options.max_batch_size = 24, s.options.tokens_per_block = 16;
       // Blocks are whole pages on every rank.
       s.options.kv_cache_memory = info.kv_bytes_per_token * model.tight_tokens *
                                   std::max(s.options.tp_size, s.options.ep_size) * s.options.pp_size;
     },
     [](const std::vector<Answer>&, const EngineMetrics& m) { return m.core.scheduler.preemptions > 0; }},
    {"cancelled_mates", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) { s.options.max_batch_size = 8, s.ask.cancelled_mates = 4; }},
    {"arrival", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.max_batch_size = 8, s.ask.together = false, s.ask.backwards = true;
     }},
    {"ngrams", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.speculation = {.method = DraftMethod::ngram, .num_tokens = 3, .ngram_min = 1, .ngram_shared = true};
     },
     some_drafted},
    {"model_drafts", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo& info, const Model& model) {
       s.options.speculation = model_drafts(model, info.path);
       s.options.kv_cache_memory *= 2;  // the longest sequence must find room for its drafter's keys too
     },
     some_drafted},
    // Every number of accepted drafts occurs.
    {"drafts", [](Arrangement&) {},
     [](Arrangement& s, const ModelInfo&, const Model&) {
       s.options.drafter = s.scripted, s.options.speculation = {.num_tokens = 4};
     },
     [](const std::vector<Answer>& a, const EngineMetrics& m) {
       return some_accepted(a, m) && m.core.scheduler.accepted[3] > 0;
     }},
};

constexpr ComputeType kFloat32 = ComputeType::float32, kBfloat16 = ComputeType::bfloat16;

// One of every kind of cache and of every way that a row could meet its neighbours; the types of numbers are spread
// over them, since all pairs of features over all of both would take an hour. Windows and chunks hold less of a
// sequence.
const Model kModels[] = {
    {"llama-3.1", 320, {kFloat32, kBfloat16}, true},
    {"mistral-swa", 192, {kBfloat16}},
    {"gemma3-1b", 320, {kFloat32}, true},
    {"gemma2", 320, {kBfloat16}},
    {"qwen2-swa", 320, {}},
    {"deepseek-v3", 320, {kBfloat16}, true},
    {"qwen3-moe", 320, {kBfloat16}, true},
    {"llama4", 304, {kBfloat16}, true},
    {"decilm-51b", 320, {kFloat32}},
    {"qwen2.5-vl", 320, {kBfloat16}},
    // Columns in the order of their groups, which an op before the products makes.
    {"ct-w4a16-actorder", 320, {kBfloat16}, true},
};

// Made of parts that those above have too: all features at once, and each request alone.
const Model kFurtherModels[] = {{"granite", 320, {kBfloat16}},
                                {"olmo2", 320, {kFloat32}},
                                {"phi3-longrope", 192, {kBfloat16}},
                                {"awq-deepseek-v3", 320, {kFloat32}}};

// With keys and values of 8 bits: windows and full layers, and latent rows. Blocks are whole pages, of which these
// leave more empty. (The features that move or cut what the cache holds, with all others behind them in the list; the
// rest is the same code as for other caches.)
const Model kInt8CacheModels[] = {{"gemma3-1b", 576, {kBfloat16}}, {"deepseek-v3", 536, {kFloat32}}};
constexpr std::string_view kInt8CacheFeatures[] = {"small_chunks", "block_reuse", "preemption"};

struct Case {
  const Model* model;
  ComputeType dtype;
  Quantize quantize;
  KvCacheType kv_cache;
  size_t feature;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model->name << " " << name_of(c.dtype) << " " << name_of(c.quantize) << " " << name_of(c.kv_cache);
}

std::vector<LoraModule> adapters_of(const Case& c) {
  const std::string folder = test_data("adapters/" + std::string(c.model->name));
  std::vector<LoraModule> modules;
  for (const char* name : {"attention", "all", "experts"})
    if (std::filesystem::exists(folder + "/" + name)) modules.push_back({name, folder + "/" + name});
  return modules;
}

class Equivalence : public ::testing::TestWithParam<Case> {
 protected:
  struct Outcome {
    std::vector<Answer> answers;
    EngineMetrics metrics;
    ModelInfo info;
  };

  void SetUp() override {
    auto reference = read_reference_case(GetParam().model->name);
    ASSERT_TRUE(reference.ok()) << reference.error().to_string();
    requests_ = mixed_requests(*reference, 40, 1);
    folder_ = reference->folder;
    // Models that there are adapters for: every third request has one, and every third another.
    const std::vector<LoraModule> adapters = adapters_of(GetParam());
    for (size_t i = 0; i < requests_.size() && !adapters.empty(); ++i)
      if (i % 3 < adapters.size()) requests_[i].lora = adapters[i % 3].name;
    auto outcome = run(plain_setup());
    ASSERT_TRUE(outcome.ok()) << outcome.error().to_string();
    plain_ = std::move(outcome).value();
    for (const Answer& answer : plain_.answers) ASSERT_EQ(answer.error, "");
  }

  static Arrangement plain_setup() {
    Arrangement setup;
    setup.options.lora.modules = adapters_of(GetParam());
    setup.options.dtype = GetParam().dtype;
    setup.options.quantize = GetParam().quantize;
    setup.options.kv_cache_dtype = GetParam().kv_cache;
    setup.options.kv_cache_memory = int64_t{64} << 20;
    setup.options.logits_processors = {TOKEN_LISTS};
    for (const Feature& feature : kFeatures) feature.off(setup);
    return setup;
  }

  Result<Outcome> run(const Arrangement& setup) const {
    std::vector<Request> requests = requests_;
    std::unique_ptr<Engine> other;
    if (setup.other_server) {
      EngineOptions options = setup.options;
      options.role = ServerRole::context, options.kv_transfer = "127.0.0.1:0";
      options.tp_size = options.pp_size = 1, options.ep_size = 0, options.enable_attention_dp = false;
      options.kv_cache_memory = int64_t{64} << 20, options.kv_cache_tier.clear();
      options.kv_cache_tier_bytes = 0, options.kv_cache_tier_use = TierUse::automatic;
      WEFT_TRY(other, Engine::load(folder_, options));
      for (Request& request : requests) request.context_servers = {other->transfer_address()};
    }
    WEFT_TRY(const std::unique_ptr<Engine> engine, Engine::load(folder_, setup.options));
    Outcome outcome{ask(*engine, requests, setup.ask), engine->metrics(), engine->info()};
    return outcome;
  }

  // Runs with these features on and compares with the plain run.
  void check(const std::string& name, const std::vector<const Feature*>& features) {
    SCOPED_TRACE(name);
    Arrangement setup = plain_setup();
    setup.scripted = scripted_drafter();
    for (const Feature* feature : features) feature->on(setup, plain_.info, *GetParam().model);
    const auto outcome = run(setup);
    ASSERT_TRUE(outcome.ok()) << outcome.error().to_string();
    int differ = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      const std::string want = plain_.answers[i].exact_text(), got = outcome->answers[i].exact_text();
      if (want != got && ++differ == 1) {
        EXPECT_EQ(got, want) << "request " << i;
      }
    }
    EXPECT_EQ(differ, 0) << "of " << requests_.size() << " answers";
    if (features.size() == 1 && features[0]->seen) {
      EXPECT_TRUE(features[0]->seen(outcome->answers, outcome->metrics)) << "the feature was not at work";
    }
  }

  std::shared_ptr<Drafter> scripted_drafter() const {
    auto drafter = std::make_shared<ScriptedDrafter>(0.75, 1, plain_.info.vocab_size);
    for (const Answer& answer : plain_.answers)
      for (const Choice& choice : answer.choices) {
        std::vector<int32_t> tokens;
        for (const TokenInfo& token : answer.prompt) tokens.push_back(token.token);
        const std::vector<int32_t> ids = choice.ids();
        tokens.insert(tokens.end(), ids.begin(), ids.end());
        drafter->record(tokens);
      }
    return drafter;
  }

  std::string folder_;
  std::vector<Request> requests_;
  Outcome plain_;
};

bool is_ranks(const Feature& feature) {
  const std::string_view kinds[] = {"tp2", "tp4", "ep2", "adp2", "pp2"};
  return std::ranges::count(kinds, feature.name) > 0;
}

// A feature alone, and with each of those behind it in the list.
TEST_P(Equivalence, FeatureAndPairs) {
  const Feature& first = kFeatures[GetParam().feature];
  const auto pairs = [&](const Feature& feature) { return GetParam().model->pairs_ranks || !is_ranks(feature); };
  check(first.name, {&first});
  for (size_t other = GetParam().feature + 1; other < std::size(kFeatures) && pairs(first); ++other)
    if (pairs(kFeatures[other]))
      check(std::string(first.name) + " + " + kFeatures[other].name, {&first, &kFeatures[other]});
}

class EquivalenceAll : public Equivalence {};

// With each kind of drafts in turn: they take each other's place.
TEST_P(EquivalenceAll, Everything) {
  const std::string_view kinds[] = {"ngrams", "model_drafts", "drafts"};
  for (const std::string_view kind : kinds) {
    std::vector<const Feature*> all;
    for (const Feature& feature : kFeatures)
      if (feature.name == kind || std::ranges::count(kinds, feature.name) == 0) all.push_back(&feature);
    check("everything with " + std::string(kind), all);
  }
}

// A request alone gives what it gives among others: the plain run itself must not depend on what ran before.
TEST_P(EquivalenceAll, EachAlone) {
  auto engine = Engine::load(folder_, plain_setup().options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  for (size_t i = requests_.size(); i-- > 0;)
    EXPECT_EQ(ask(**engine, requests_[i]).exact_text(), plain_.answers[i].exact_text()) << "request " << i;
}

// Whoever has no adapter gets what there is without any.
TEST_P(EquivalenceAll, WithoutAdapters) {
  if (adapters_of(GetParam()).empty()) GTEST_SKIP() << "there is no adapter for this model";
  Arrangement setup = plain_setup();
  setup.options.lora = {};
  std::vector<Request> requests;
  std::vector<size_t> places;
  for (size_t i = 0; i < requests_.size(); ++i)
    if (requests_[i].lora.empty()) requests.push_back(requests_[i]), places.push_back(i);
  auto engine = Engine::load(folder_, setup.options);
  ASSERT_TRUE(engine.ok()) << engine.error().to_string();
  const std::vector<Answer> answers = ask(**engine, requests);
  for (size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(answers[i].exact_text(), plain_.answers[places[i]].exact_text()) << "request " << places[i];
}

// Ranks that a model cannot be shared by are refused with its numbers, by the option's name.
TEST(EquivalenceOfRanks, WhatDoesNotDivideIsRefused) {
  struct Refused {
    const char* model;
    EngineOptions options;
    std::initializer_list<const char*> words;
  };
  const Refused cases[] = {
      {"llama-3.1", {.tp_size = 8}, {"4 attention heads", "8 ranks"}},
      {"llama-sharded-bf16", {.tp_size = 2}, {"6 query heads", "3 heads of keys and values", "2 ranks"}},
      {"deepseek-v3-fp8", {.ep_size = 4}, {"6 experts", "4 ranks"}},
      {"deepseek-v3-fp8",
       {.tp_size = 4, .ep_size = 4, .enable_attention_dp = true},
       {"6 experts", "4 ranks", "2 groups"}},
      {"llama4", {.tp_size = 8, .ep_size = 8, .enable_attention_dp = true}, {"4 experts", "8 ranks", "4 groups"}},
      {"qwen3-moe", {.tp_size = 16, .ep_size = 1, .enable_attention_dp = true}, {"24 columns", "16 ranks of a set"}},
      {"qwen3-moe", {.tp_size = 4, .ep_size = 3}, {"--ep-size 3", "--tp-size 4"}},
  };
  for (const Refused& refused : cases) {
    const auto engine = Engine::load(test_data(std::string("golden/") + refused.model), refused.options);
    ASSERT_FALSE(engine.ok()) << refused.model;
    EXPECT_EQ(engine.error().code(), Code::invalid_argument);
    const std::string text = engine.error().to_string();
    for (const char* word : refused.words) EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
  }
}

std::vector<Case> cases(bool each_feature) {
  std::vector<Case> list;
  const auto add = [&](const Model& model, ComputeType dtype, Quantize quantize) {
    for (size_t feature = 0; feature < (each_feature ? std::size(kFeatures) : 1); ++feature)
      list.push_back({&model, dtype, quantize, KvCacheType::automatic, feature});
  };
  for (const Model& model : kModels) {
    for (const ComputeType dtype : model.dtypes) add(model, dtype, Quantize::none);
    // Rows of 8 bits with either width of weights, experts among them, and quantised weights with float rows.
    const std::string_view name = model.name;
    if (name == "llama-3.1") add(model, kBfloat16, Quantize::int8);
    if (name == "qwen3-moe") add(model, kBfloat16, Quantize::int4);
    if (name == "qwen2-swa") add(model, kFloat32, Quantize::int4);
  }
  if (!each_feature)
    for (const Model& model : kFurtherModels) add(model, *model.dtypes.begin(), Quantize::none);
  for (const Model& model : kInt8CacheModels)
    for (size_t feature = 0; feature < std::size(kFeatures); ++feature)
      if (each_feature ? std::ranges::count(kInt8CacheFeatures, kFeatures[feature].name) > 0 : feature == 0)
        list.push_back({&model, *model.dtypes.begin(), Quantize::none, KvCacheType::int8, feature});
  return list;
}

std::string model_and_type(const Case& c) {
  std::ostringstream text;
  text << c.model->name << "_" << name_of(c.dtype);
  if (c.quantize != Quantize::none) text << "_" << name_of(c.quantize);
  if (c.kv_cache != KvCacheType::automatic) text << "_" << name_of(c.kv_cache) << "_cache";
  return as_test_name(text.str());
}

INSTANTIATE_TEST_SUITE_P(, Equivalence, ::testing::ValuesIn(cases(true)), [](const auto& info) {
  return model_and_type(info.param) + "_" + kFeatures[info.param.feature].name;
});
INSTANTIATE_TEST_SUITE_P(, EquivalenceAll, ::testing::ValuesIn(cases(false)),
                         [](const auto& info) { return model_and_type(info.param); });

}  // namespace
}  // namespace weft::testing
