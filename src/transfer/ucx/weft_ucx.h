/* What libweft_ucx.so gives to weft: UCX's connections and active messages as a table of a few C functions, all of
 * which return at once. Order, limits, deadlines and threads are weft's own (ucx_transport.h).
 *
 * A shared library that is loaded when a transfer over UCX is asked for, for the reasons that comm/mpi/weft_mpi.h
 * gives: one program for machines with and without it, and a cluster's own UCX needs only this small library built
 * again.
 *
 * UCX's wire protocol has no authentication (ucx_transport.h): it belongs into closed networks.
 *
 * All calls for one worker are made by one thread, and so are the events, within progress() and, where it is said,
 * within the call that causes them. Functions that return int give 0, or an error that describe() puts into words. */
#ifndef WEFT_TRANSFER_UCX_WEFT_UCX_H
#define WEFT_TRANSFER_UCX_WEFT_UCX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_UCX_ABI 1u

typedef struct weft_ucx_worker weft_ucx_worker; /* a context of UCX with its devices, and all that goes on in it */
typedef struct weft_ucx_end weft_ucx_end;       /* this side of a connection */
typedef void weft_ucx_offer;                    /* a message that lies at its sender until it is fetched */

/* `user` is what an end was given when it was made. None of them comes for an end behind its disconnect(). */
typedef struct weft_ucx_events {
  void* self; /* passed to all of them */
  /* A peer connects. Returns the end's `user`, or null: it is refused. */
  void* (*connecting)(void* self, weft_ucx_end* end, const struct sockaddr* peer, socklen_t peer_bytes);
  /* A message with its bytes, which stay until this returns. */
  void (*arrived)(void* self, void* user, uint64_t number, const void* data, size_t bytes);
  /* A message without them: to be fetched or refused once, also behind the end's disconnect(). */
  void (*offered)(void* self, void* user, uint64_t number, size_t bytes, weft_ucx_offer* offer);
  /* The connection is lost, or could not be made; disconnect() is to follow. */
  void (*failed)(void* self, void* user, int error);
  /* What send() and fetch() began is over, and UCX has let go of the memory. Also within the call, and always: behind
   * disconnect() too, before close() returns. */
  void (*sent)(void* self, void* context, int error);
  void (*fetched)(void* self, void* context, int error);
} weft_ucx_events;

typedef struct weft_ucx_table {
  uint32_t abi; /* WEFT_UCX_ABI; first in every version */

  /* `loopback`: no device but loopback and shared memory is used, and no other address taken. Events are copied. */
  int (*open)(const weft_ucx_events* events, int loopback, weft_ucx_worker** worker);
  /* Ends all connections. Waits for what is under way, at most a few seconds. */
  void (*close)(weft_ucx_worker* worker);

  /* Takes the address; `in_force` becomes the one taken. */
  int (*listen)(weft_ucx_worker* worker, const struct sockaddr* at, socklen_t bytes, struct sockaddr_storage* in_force);
  int (*connect)(weft_ucx_worker* worker, const struct sockaddr* to, socklen_t bytes, void* user, weft_ucx_end** end);
  /* Ends the connection at once; the end may not be used any more. */
  void (*disconnect)(weft_ucx_worker* worker, weft_ucx_end* end);

  /* Starts a message; the memory stays until sent(). With `offer` the receiver fetches it, else it goes out with its
   * bytes. Messages may overtake each other, so they have numbers. */
  void (*send)(weft_ucx_worker* worker, weft_ucx_end* end, uint64_t number, const void* data, size_t bytes, int offer,
               void* context);
  /* Fetches the offer into memory that stays until fetched(). */
  void (*fetch)(weft_ucx_worker* worker, weft_ucx_offer* offer, void* data, size_t bytes, void* context);
  void (*refuse)(weft_ucx_worker* worker, weft_ucx_offer* offer);

  /* Drives all on; 0: there was nothing to do. */
  unsigned (*progress)(weft_ucx_worker* worker);
  /* Before sleeping: 0 if descriptor() will become readable when there is something to do, else there is already. */
  int (*arm)(weft_ucx_worker* worker);
  int (*descriptor)(weft_ucx_worker* worker);

  void (*describe)(int error, char* text, size_t size);
} weft_ucx_table;

/* The one name that libweft_ucx.so exports. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const weft_ucx_table*
weft_ucx(void);

#ifdef __cplusplus
}
#endif
#endif
