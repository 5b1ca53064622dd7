/* What libweft_mpi.so gives to weft: MPI as a table of a few C functions, all of which return at once. What ranks do
 * with them - collectives, deadlines, signs of life - is weft's own (process_link.h), so it is the same with every MPI.
 *
 * A shared library that is loaded when the process was started by an MPI launcher, since
 * - the one program serves machines without MPI as well: nothing of MPI is linked, and nothing of it is started unless
 *   there are ranks in other processes;
 * - a cluster has an MPI of its own, which fits its network: only this small library has to be built again for it.
 * A second program with MPI linked in would have to be built, tested and chosen beside the first.
 *
 * The calling threads take turns (MPI_THREAD_SERIALIZED): weft never makes two calls at once. Functions that return int
 * give 0, or an error of MPI that describe() puts into words. */
#ifndef WEFT_COMM_MPI_WEFT_MPI_H
#define WEFT_COMM_MPI_WEFT_MPI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_MPI_ABI 1u

/* A transfer that was started; 0: none. */
typedef uint64_t weft_mpi_request;

typedef struct weft_mpi_table {
  uint32_t abi; /* WEFT_MPI_ABI; first in every version */

  /* Joins the processes of the launcher, once per process; waits until all have. */
  int (*start)(int* rank, int* size);
  /* The end of an orderly run; waits until all ranks have called it. */
  int (*finish)(void);
  /* Ends all processes; `status` is the launcher's exit status. May return before they have ended. */
  void (*abort)(int status);

  /* Start a transfer between this rank and another. The memory stays as it is until test() has named the request.
   * Transfers between the same two ranks with the same tag meet in the order in which they were started. `tag` is
   * 0 .. 32767, `bytes` less than 2^31; a transfer may bring fewer bytes than its receiver has room for. */
  int (*send)(int to, int tag, const void* data, size_t bytes, weft_mpi_request* request);
  int (*receive)(int from, int tag, void* data, size_t bytes, weft_mpi_request* request);
  /* Drives all transfers on, and tells which of the `count` requests have been finished since: `finished` of them,
   * whose numbers are in `which` and, where they were receives, whose bytes are in `bytes` (both [count]). A finished
   * request must not be passed again. If a transfer failed: its error, and its number in which[0]. */
  int (*test)(const weft_mpi_request* requests, int count, int* finished, int* which, size_t* bytes);

  /* Writes at most `size` bytes, a 0 at the end among them. */
  void (*describe)(int error, char* text, size_t size);
} weft_mpi_table;

/* The library's one export; the table lives for ever. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const weft_mpi_table*
weft_mpi(void);

#ifdef __cplusplus
}
#endif

#endif
