#include "orchestrate/front_metrics.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

TEST(FrontMetrics, TextsOfServersBecomeOne) {
  const std::string a =
      "# HELP x What it is.\n# TYPE x counter\nx 1\n# HELP y Y.\n# TYPE y gauge\ny{k=\"v 1\"} 2\ny{} 3\n";
  const std::string b =
      "# HELP y Y.\n# TYPE y gauge\ny{k=\"w\"} 4\n# HELP x What it is.\n# TYPE x counter\nx 5\n"
      "# HELP z_s Z.\n# TYPE z_s histogram\nz_s_bucket{le=\"+Inf\"} 6\nz_s_sum 7";
  EXPECT_EQ(merge_metrics({{"http://a:1", a}, {"down", ""}, {"b\"", b}}),
            "# HELP x What it is.\n# TYPE x counter\nx{server=\"http://a:1\"} 1\nx{server=\"b\\\"\"} 5\n"
            "# HELP y Y.\n# TYPE y gauge\ny{server=\"http://a:1\",k=\"v 1\"} 2\ny{server=\"http://a:1\"} 3\n"
            "y{server=\"b\\\"\",k=\"w\"} 4\n"
            "# HELP z_s Z.\n# TYPE z_s histogram\nz_s_bucket{server=\"b\\\"\",le=\"+Inf\"} 6\n"
            "z_s_sum{server=\"b\\\"\"} 7\n");
  EXPECT_EQ(merge_metrics({}), "");
}

TEST(FrontMetrics, Text) {
  FrontMetrics metrics;
  metrics.count_response("/v1/completions", 200), metrics.count_response("/v1/completions", 200);
  metrics.count_response("other", 404);
  metrics.count_retry();
  metrics.count_routed(100, 64), metrics.count_routed(10, 0);
  metrics.observe_first_byte(0.02);
  ServerStatus server;
  server.url = "http://a:1", server.state = ServerState::up, server.role = ServerRole::context;
  server.in_flight = 3, server.requests = 9, server.failures = 2, server.cached_blocks = 7;
  const std::string text = metrics.prometheus({server}, 5);
  for (const char* line :
       {"weft_front_server_up{server=\"http://a:1\",role=\"context\"} 1\n",
        "weft_front_server_in_flight{server=\"http://a:1\",role=\"context\"} 3\n",
        "weft_front_server_requests_total{server=\"http://a:1\",role=\"context\"} 9\n",
        "weft_front_server_failures_total{server=\"http://a:1\",role=\"context\"} 2\n",
        "weft_front_server_cached_blocks{server=\"http://a:1\",role=\"context\"} 7\n", "weft_http_connections 5\n",
        "weft_front_retries_total 1\n", "weft_front_routed_prompts_total 2\n",
        "weft_front_routed_prompt_tokens_total 110\n", "weft_front_routed_cached_tokens_total 64\n",
        "weft_http_requests_total{path=\"/v1/completions\",status=\"200\"} 2\n",
        "weft_http_requests_total{path=\"other\",status=\"404\"} 1\n",
        "weft_front_first_byte_seconds_bucket{le=\"0.01\"} 0\n",
        "weft_front_first_byte_seconds_bucket{le=\"0.025\"} 1\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
}

}  // namespace
}  // namespace weft
