// libweft_ucx.so: the table of weft_ucx.h over UCX's endpoints and active messages. The only file that includes UCX.
#include "transfer/ucx/weft_ucx.h"

#include <netinet/in.h>
#include <ucp/api/ucp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <unordered_set>

// This side of a connection. It stays until UCX has closed the endpoint, which names it until then.
struct weft_ucx_end {
  weft_ucx_worker* worker = nullptr;
  ucp_ep_h endpoint = nullptr;
  void* user = nullptr;
};

namespace {

// A send or a fetch that UCX has not completed.
struct Pending {
  weft_ucx_worker* worker;
  void* context;
  uint64_t number;  // of a send: the header of its message, which must stay as long as its bytes
  void (*weft_ucx_events::*done)(void* self, void* context, int error);
};

}  // namespace

struct weft_ucx_worker {
  weft_ucx_events events{};
  ucp_context_h context = nullptr;
  ucp_worker_h worker = nullptr;
  ucp_listener_h listener = nullptr;
  std::unordered_map<ucp_ep_h, weft_ucx_end*> ends;  // those that are connected or connecting
  std::unordered_set<Pending*> pending;              // sends and fetches
  size_t closing = 0;                                // endpoints that UCX has not let go of
};

namespace {

constexpr unsigned kMessageId = 0;

int as_error(ucs_status_t status) { return status == UCS_OK ? 0 : static_cast<int>(status); }

ucs_sock_addr_t as_address(const sockaddr* address, socklen_t bytes) { return {address, bytes}; }

void on_failed(void* argument, ucp_ep_h, ucs_status_t status) {
  auto* const end = static_cast<weft_ucx_end*>(argument);
  if (end->user) end->worker->events.failed(end->worker->events.self, end->user, as_error(status));
}

int make_endpoint(weft_ucx_worker* worker, ucp_ep_params_t& params, weft_ucx_end* end) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {on_failed, end};
  end->worker = worker;
  const ucs_status_t status = ucp_ep_create(worker->worker, &params, &end->endpoint);
  if (status == UCS_OK) worker->ends.emplace(end->endpoint, end);
  return as_error(status);
}

void close_endpoint(weft_ucx_worker* worker, weft_ucx_end* end) {
  end->user = nullptr;
  worker->ends.erase(end->endpoint);
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  params.user_data = end;
  params.cb.send = [](void* request, ucs_status_t, void* data) {
    auto* const closed = static_cast<weft_ucx_end*>(data);
    --closed->worker->closing;
    delete closed;
    ucp_request_free(request);
  };
  const ucs_status_ptr_t request = ucp_ep_close_nbx(end->endpoint, &params);
  if (UCS_PTR_IS_PTR(request)) ++worker->closing;
  else delete end;
}

void on_connecting(ucp_conn_request_h request, void* argument) {
  auto* const worker = static_cast<weft_ucx_worker*>(argument);
  ucp_conn_request_attr_t attributes{};
  attributes.field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR;
  if (ucp_conn_request_query(request, &attributes) != UCS_OK) {
    ucp_listener_reject(worker->listener, request);
    return;
  }
  const auto* const peer = reinterpret_cast<const sockaddr*>(&attributes.client_address);
  const socklen_t bytes = peer->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  auto end = std::make_unique<weft_ucx_end>();
  end->user = worker->events.connecting(worker->events.self, end.get(), peer, bytes);
  if (!end->user) {
    ucp_listener_reject(worker->listener, request);
    return;
  }
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  const int error = make_endpoint(worker, params, end.get());
  weft_ucx_end* const made = end.release();  // disconnect() of one without an endpoint just deletes it
  if (error) worker->events.failed(worker->events.self, made->user, error);
}

ucs_status_t on_message(void* argument, const void* header, size_t header_bytes, void* data, size_t bytes,
                        const ucp_am_recv_param_t* params) {
  auto* const worker = static_cast<weft_ucx_worker*>(argument);
  uint64_t number = 0;
  const bool known = (params->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) && header_bytes == sizeof number;
  const auto found = known ? worker->ends.find(params->reply_ep) : worker->ends.end();
  if (found == worker->ends.end() || !found->second->user) return UCS_OK;  // nobody's any more
  std::memcpy(&number, header, sizeof number);
  if (params->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
    worker->events.offered(worker->events.self, found->second->user, number, bytes, data);
    return UCS_INPROGRESS;
  }
  worker->events.arrived(worker->events.self, found->second->user, number, data, bytes);
  return UCS_OK;
}

ucs_status_t open_context(int loopback, ucp_context_h* context) {
  ucp_config_t* config = nullptr;
  if (const ucs_status_t status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) return status;
  const auto set = [&](const char* name, const char* value) { ucp_config_modify(config, name, value); };
  if (loopback) {
    set("NET_DEVICES", "lo");
    set("SOCKADDR_TLS_PRIORITY", "tcp");
  }
  if (!std::getenv("UCX_KEEPALIVE_INTERVAL")) set("KEEPALIVE_INTERVAL", "2s");
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = "weft";
  const ucs_status_t status = ucp_init(&params, config, context);
  ucp_config_release(config);
  return status;
}

ucs_status_t open_worker(weft_ucx_worker* opened) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_FLAGS;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // open() and close() may come from another thread
  params.flags = UCP_WORKER_FLAG_IGNORE_REQUEST_LEAK;
  if (const ucs_status_t status = ucp_worker_create(opened->context, &params, &opened->worker); status != UCS_OK)
    return status;
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = on_message;
  handler.arg = opened;
  return ucp_worker_set_am_recv_handler(opened->worker, &handler);
}

Pending* begin(weft_ucx_worker* worker, void* context, uint64_t number, decltype(Pending::done) done) {
  auto* const pending = new Pending{worker, context, number, done};
  worker->pending.insert(pending);
  return pending;
}

void finish(Pending* pending, ucs_status_t status) {
  const Pending done = *pending;
  done.worker->pending.erase(pending);
  delete pending;
  (done.worker->events.*done.done)(done.worker->events.self, done.context, as_error(status));
}

int open(const weft_ucx_events* events, int loopback, weft_ucx_worker** worker) {
  auto opened = std::make_unique<weft_ucx_worker>();
  opened->events = *events;
  if (const ucs_status_t status = open_context(loopback, &opened->context); status != UCS_OK) return as_error(status);
  const ucs_status_t status = open_worker(opened.get());
  if (status != UCS_OK) {
    if (opened->worker) ucp_worker_destroy(opened->worker);
    ucp_cleanup(opened->context);
    return as_error(status);
  }
  *worker = opened.release();
  return 0;
}

void close(weft_ucx_worker* worker) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kPatience{3};
  if (worker->listener) ucp_listener_destroy(worker->listener);
  while (!worker->ends.empty()) close_endpoint(worker, worker->ends.begin()->second);
  const auto under_way = [&] { return worker->closing > 0 || !worker->pending.empty(); };
  for (const auto begin = Clock::now(); under_way() && Clock::now() - begin < kPatience;)
    ucp_worker_progress(worker->worker);
  ucp_worker_destroy(worker->worker);
  while (!worker->pending.empty()) finish(*worker->pending.begin(), UCS_ERR_CANCELED);
  ucp_cleanup(worker->context);
  delete worker;
}

int listen(weft_ucx_worker* worker, const sockaddr* at, socklen_t bytes, sockaddr_storage* in_force) {
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr = as_address(at, bytes);
  params.conn_handler = {on_connecting, worker};
  if (const ucs_status_t status = ucp_listener_create(worker->worker, &params, &worker->listener); status != UCS_OK) {
    worker->listener = nullptr;
    return as_error(status);
  }
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  const ucs_status_t status = ucp_listener_query(worker->listener, &attributes);
  *in_force = attributes.sockaddr;
  return as_error(status);
}

int connect(weft_ucx_worker* worker, const sockaddr* to, socklen_t bytes, void* user, weft_ucx_end** end) {
  auto made = std::make_unique<weft_ucx_end>();
  made->user = user;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr = as_address(to, bytes);
  if (const int error = make_endpoint(worker, params, made.get())) return error;
  *end = made.release();
  return 0;
}

void disconnect(weft_ucx_worker* worker, weft_ucx_end* end) {
  if (end->endpoint) close_endpoint(worker, end);
  else delete end;
}

void send(weft_ucx_worker* worker, weft_ucx_end* end, uint64_t number, const void* data, size_t bytes, int offer,
          void* context) {
  Pending* const sending = begin(worker, context, number, &weft_ucx_events::sent);
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.flags = UCP_AM_SEND_FLAG_REPLY | (offer ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
  params.user_data = sending;
  params.cb.send = [](void* request, ucs_status_t status, void* user) {
    ucp_request_free(request);
    finish(static_cast<Pending*>(user), status);
  };
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(end->endpoint, kMessageId, &sending->number, sizeof sending->number, data, bytes, &params);
  if (!UCS_PTR_IS_PTR(request)) finish(sending, UCS_PTR_RAW_STATUS(request));
}

void fetch(weft_ucx_worker* worker, weft_ucx_offer* offer, void* data, size_t bytes, void* context) {
  Pending* const fetching = begin(worker, context, 0, &weft_ucx_events::fetched);
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  params.user_data = fetching;
  params.cb.recv_am = [](void* request, ucs_status_t status, size_t, void* user) {
    ucp_request_free(request);
    finish(static_cast<Pending*>(user), status);
  };
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker->worker, offer, data, bytes, &params);
  if (!UCS_PTR_IS_PTR(request)) finish(fetching, UCS_PTR_RAW_STATUS(request));
}

void refuse(weft_ucx_worker* worker, weft_ucx_offer* offer) { ucp_am_data_release(worker->worker, offer); }

unsigned progress(weft_ucx_worker* worker) { return ucp_worker_progress(worker->worker); }

int arm(weft_ucx_worker* worker) { return as_error(ucp_worker_arm(worker->worker)); }

int descriptor(weft_ucx_worker* worker) {
  int number = -1;
  ucp_worker_get_efd(worker->worker, &number);
  return number;
}

void describe(int error, char* text, size_t size) {
  std::snprintf(text, size, "%s", ucs_status_string(static_cast<ucs_status_t>(error)));
}

const weft_ucx_table kTable = {WEFT_UCX_ABI, open,   close,    listen, connect,    disconnect, send,
                               fetch,        refuse, progress, arm,    descriptor, describe};

}  // namespace

const weft_ucx_table* weft_ucx(void) { return &kTable; }
