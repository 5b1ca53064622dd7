#include "equivalence/requests.h"

#include <algorithm>
#include <random>

namespace weft::testing {
namespace {

// The standard distributions differ between libraries; this does not.
class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  uint64_t below(uint64_t end) { return engine_() % end; }
  bool chance(int percent) { return below(100) < static_cast<uint64_t>(percent); }
  template <class T>
  T pick(std::initializer_list<T> list) {
    return list.begin()[below(list.size())];
  }
  template <class T>
  const T& pick(const std::vector<T>& list) {
    return list[below(list.size())];
  }

 private:
  std::mt19937_64 engine_;
};

using Ids = std::vector<int32_t>;

std::vector<Ids> prompts_of(const ReferenceCase& reference) {
  std::vector<Ids> prompts;
  for (const ReferencePrompt& prompt : reference.prompts) prompts.push_back(prompt.input_ids);
  const Ids longest =
      *std::max_element(prompts.begin(), prompts.end(), [](const Ids& a, const Ids& b) { return a.size() < b.size(); });
  const auto beginning = [&](size_t count) {
    return Ids(longest.begin(), longest.begin() + static_cast<ptrdiff_t>(count));
  };
  for (const Ids& end : std::vector<Ids>(prompts)) {  // shared beginnings
    Ids& joined = prompts.emplace_back(beginning(longest.size() * 2 / 3));
    joined.insert(joined.end(), end.end() - std::min<ptrdiff_t>(3, static_cast<ptrdiff_t>(end.size())), end.end());
  }
  for (const size_t count : {15, 16, 17, 32, 33, 48, 64, 65})  // the edges of blocks
    if (count < longest.size()) prompts.push_back(beginning(count));
  return prompts;
}

void choose_sampling(Dice& dice, Request& request) {
  SamplingParams& s = request.sampling;
  if (dice.chance(35)) {
    s.temperature = 0;
    return;
  }
  s.temperature = dice.pick({0.3f, 0.8f, 1.0f, 1.7f});
  request.seed = dice.below(uint64_t{1} << 31);
  switch (dice.below(6)) {
    case 0: s.top_k = 5; break;
    case 1: s.top_p = 0.7f; break;
    case 2: s.min_p = 0.1f; break;
    case 3: s.top_k = 20, s.top_p = 0.9f, s.min_p = 0.02f; break;
    case 4: s.top_p = 0.95f, s.top_p_decay = 0.9f, s.top_p_min = 0.3f; break;
    default: break;
  }
  if (dice.chance(20)) request.n = 2;
}

void choose_changes(Dice& dice, Request& request) {
  SamplingParams& s = request.sampling;
  if (dice.chance(30)) {
    switch (dice.below(4)) {
      case 0: s.repetition_penalty = 1.3f; break;
      case 1: s.presence_penalty = 0.7f; break;
      case 2: s.frequency_penalty = 0.5f; break;
      default: s.no_repeat_ngram_size = 3; break;
    }
  }
  if (dice.chance(15)) s.logit_bias = {{static_cast<int32_t>(dice.below(300)), dice.pick({-100.0f, 5.0f, 20.0f})}};
  if (dice.chance(20)) {
    for (int i = 0; i < 20; ++i) s.stop_token_ids.push_back(static_cast<int32_t>(dice.below(300)));
    s.min_tokens = std::min(dice.pick({0, 3}), *request.max_tokens);
  }
  if (dice.chance(15)) request.stop = {"e", " th"};
  if (dice.chance(15)) {
    const std::pair<GuideSpec::Kind, const char*> guides[] = {
        {GuideSpec::Kind::regex, "[a-z]{3,12}( [a-z]+)*"},
        {GuideSpec::Kind::regex, "-?[0-9]+(\\.[0-9]{1,4})?"},
        {GuideSpec::Kind::json_schema, R"({"type": "array", "items": {"type": "integer"}})"},
        {GuideSpec::Kind::structural_tag,
         R"({"triggers": ["e"], "structures": [{"begin": "e", "schema": {"type": "integer"}, "end": ";"}]})"},
    };
    const auto& [kind, text] = guides[dice.below(4)];
    request.guide.kind = kind;
    request.guide.text = text;
  }
}

// Every other request is about an image, where the model takes any.
void add_images(const ReferenceCase& reference, std::vector<Request>& requests) {
  std::vector<const ReferencePrompt*> prompts;
  for (const ReferencePrompt& prompt : reference.prompts)
    if (prompt.has_images()) prompts.push_back(&prompt);
  for (size_t i = 1; i < requests.size() && !prompts.empty(); i += 2) {
    const ReferencePrompt& prompt = *prompts[i / 2 % prompts.size()];
    requests[i].prompt_token_ids.reset();
    requests[i].prompt = prompt.text, requests[i].add_special_tokens = false;
    requests[i].images = prompt.images, requests[i].videos = prompt.videos, requests[i].local_files = true;
  }
}

// Of the example plugin, examples/logits_processor.
void choose_processors(Dice& dice, Request& request) {
  const std::string some = std::to_string(dice.below(300)), other = std::to_string(dice.below(300));
  const ProcessorChoice ban{"ban_tokens", "{\"tokens\": [" + some + ", " + other + "]}"},
      force{"force_tokens", "{\"tokens\": [301, 302]}"};  // no stop tokens
  switch (dice.below(3)) {
    case 0: request.sampling.logits_processors = {ban}; break;
    case 1: request.sampling.logits_processors = {force}; break;
    default: request.sampling.logits_processors = {ban, force}; break;
  }
}

// Keeps the request's penalties, masks, stop tokens and grammar.
void choose_beams(Dice& dice, Request& request) {
  SamplingParams& s = request.sampling;
  s.temperature = 1, s.top_k = 0, s.top_p = 1, s.min_p = 0, s.top_p_decay = 1, s.prompt_logprobs = -1;
  request.stop.clear();
  request.max_tokens = std::min(*request.max_tokens, 10);
  s.min_tokens = std::min(s.min_tokens, *request.max_tokens);
  request.n = dice.pick({1, 2});
  request.beams = BeamSpec{dice.pick({2, 3}), dice.pick({0.0f, 1.0f}),
                           dice.pick({EarlyStopping::no, EarlyStopping::yes, EarlyStopping::never})};
}

}  // namespace

std::vector<Request> mixed_requests(const ReferenceCase& reference, int count, uint64_t seed) {
  Dice dice(seed), more(seed + 1);
  const std::vector<Ids> prompts = prompts_of(reference);
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request& request = requests.emplace_back();
    request.id = std::to_string(i);
    request.prompt_token_ids = dice.pick(prompts);
    request.max_tokens = dice.pick({1, 2, 7, 24, 40});
    request.sampling.ignore_eos = true;
    request.sampling.logprobs = dice.pick({-1, 0, 1, 5});
    if (dice.chance(10)) request.sampling.prompt_logprobs = dice.pick({0, 1, 3});
    choose_sampling(dice, request);
    choose_changes(dice, request);
    if (request.guide.kind == GuideSpec::Kind::none && more.chance(20)) choose_processors(more, request);
    if (more.chance(12)) choose_beams(more, request);
    else if (more.chance(10))
      request.sampling.context_logits = more.chance(50), request.sampling.generation_logits = more.chance(70);
  }
  add_images(reference, requests);
  return requests;
}

}  // namespace weft::testing
