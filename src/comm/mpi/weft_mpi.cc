// libweft_mpi.so: the table of weft_mpi.h over the MPI that it was built with. The only file that includes mpi.h.
#include "comm/mpi/weft_mpi.h"

#include <mpi.h>

#include <cstdio>
#include <cstring>
#include <vector>

namespace {

static_assert(sizeof(MPI_Request) <= sizeof(weft_mpi_request));

weft_mpi_request as_number(MPI_Request request) {
  weft_mpi_request number = 0;
  std::memcpy(&number, &request, sizeof request);
  return number;
}

int start(int* rank, int* size) {
  int level = MPI_THREAD_SINGLE;
  if (const int error = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level)) return error;
  if (level < MPI_THREAD_SERIALIZED) return MPI_ERR_UNSUPPORTED_OPERATION;
  if (const int error = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN)) return error;
  if (const int error = MPI_Comm_rank(MPI_COMM_WORLD, rank)) return error;
  return MPI_Comm_size(MPI_COMM_WORLD, size);
}

int finish() { return MPI_Finalize(); }

void abort_all(int status) { MPI_Abort(MPI_COMM_WORLD, status); }

int send(int to, int tag, const void* data, size_t bytes, weft_mpi_request* request) {
  MPI_Request started = MPI_REQUEST_NULL;
  const int error = MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, MPI_COMM_WORLD, &started);
  *request = as_number(started);
  return error;
}

int receive(int from, int tag, void* data, size_t bytes, weft_mpi_request* request) {
  MPI_Request started = MPI_REQUEST_NULL;
  const int error = MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, tag, MPI_COMM_WORLD, &started);
  *request = as_number(started);
  return error;
}

int test(const weft_mpi_request* requests, int count, int* finished, int* which, size_t* bytes) {
  static std::vector<MPI_Request> handles;  // kept, so that steps do not allocate; calls take turns
  static std::vector<MPI_Status> statuses;
  const auto size = static_cast<size_t>(count);
  handles.resize(size);
  statuses.resize(size);
  for (size_t i = 0; i < size; ++i) std::memcpy(&handles[i], &requests[i], sizeof handles[i]);
  int done = 0;
  const int error = MPI_Testsome(count, handles.data(), &done, which, statuses.data());
  if (done == MPI_UNDEFINED) done = 0;  // no requests
  *finished = done;
  for (int i = 0; i < done; ++i) {
    const MPI_Status& status = statuses[static_cast<size_t>(i)];
    if (error == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING) {
      which[0] = which[i];
      return status.MPI_ERROR;
    }
    int received = 0;
    MPI_Get_count(&status, MPI_BYTE, &received);
    bytes[i] = received == MPI_UNDEFINED ? 0 : static_cast<size_t>(received);
  }
  return error;
}

void describe(int error, char* text, size_t size) {
  char message[MPI_MAX_ERROR_STRING + 1] = {};
  int length = 0;
  if (MPI_Error_string(error, message, &length) != MPI_SUCCESS) length = 0;
  if (length > 0) std::snprintf(text, size, "%s", message);
  else std::snprintf(text, size, "MPI error %d", error);
}

const weft_mpi_table kTable = {WEFT_MPI_ABI, start, finish, abort_all, send, receive, test, describe};

}  // namespace

const weft_mpi_table* weft_mpi(void) { return &kTable; }
