#include "server/pipeline.h"

#include <utility>

#include "backend/core/error.h"
#include "google/protobuf/arena.h"
#include "server/batch_placement.h"
#include "server/batch_queue.h"
#include "server/guarded.h"
#include "server/log.h"
#include "server/reply_codec.h"

namespace tessera {
namespace {

double MicrosecondsSince(Clock::time_point begin) { return Microseconds(Clock::now() - begin); }

constexpr char kServer[] = "the server";  // what throws, outside of a launch

std::string IdOf(const Job& job) { return job.wire == nullptr ? std::string() : job.wire->header().id(); }

// One line for each request, without any tensor data.
void LogRequest(const Job& job, const std::string& id, const absl::Status& status) {
  if (!Log().should_log(spdlog::level::debug)) return;
  const AttentionProblem& p = job.request.problem;
  const Ledger& ledger = job.ledger;
  Log().debug(
      "request number={} id={} method={} backend={} kernel={} code={} message={} sequences={} q_tokens={} "
      "kv_tokens={} heads={}/{} head_dims={}/{} dtype={} batch_requests={} queue_us={:.0f} in_us={:.0f} "
      "compute_us={:.0f} out_us={:.0f} total_us={:.0f}",
      job.context.number, Quoted(id), MethodName(job.context.method),
      job.backend == nullptr ? "-" : job.backend->info().name, Quoted(ledger.choice.kernel),
      absl::StatusCodeToString(status.code()), Quoted(status.message()), p.num_sequences, job.size.q_tokens,
      job.size.kv_tokens, p.num_q_heads, p.num_kv_heads, p.head_dim_qk, p.head_dim_v, DTypeName(p.q.dtype),
      ledger.choice.batch_requests, ledger.time.queue, ledger.time.transfer_in, ledger.time.compute,
      ledger.time.transfer_out, ledger.time.total);
}

grpc::ByteBuffer MakeReply(Job& job, const std::string& id) {
  // Small messages within a message: all of them fit here.
  alignas(8) char block[2048];
  google::protobuf::ArenaOptions options;
  options.initial_block = block;
  options.initial_block_size = sizeof(block);
  google::protobuf::Arena arena(options);
  auto& response = *google::protobuf::Arena::CreateMessage<v1::AttendResponse>(&arena);
  EncodeReply(id, job.request.outputs, job.ledger, response);
  return SerializeReply(response, std::move(job.outputs));
}

Pipeline::Outcome Finish(Job& job, const absl::Status& status) {
  Pipeline::Outcome outcome{.id = IdOf(job), .status = status, .reply = {}, .record = {}};
  job.ledger.time.total = MicrosecondsSince(job.context.arrival);
  if (status.ok()) {
    outcome.status = Guarded(kServer, [&] {
      outcome.reply = MakeReply(job, outcome.id);
      return absl::OkStatus();
    });
  }
  LogRequest(job, outcome.id, outcome.status);
  outcome.record = {.method = job.context.method,
                    .backend = job.backend,
                    .ledger = std::move(job.ledger),
                    .computed = status.ok(),
                    .leads_launch = job.leads_launch};
  return outcome;
}

}  // namespace

RequestContext Pipeline::NewContext(Method method, Clock::time_point deadline) {
  RequestContext context;
  context.number = next_number_.fetch_add(1, std::memory_order_relaxed);
  context.method = method;
  context.arrival = Clock::now();
  context.deadline = deadline;
  return context;
}

void Pipeline::Attend(RequestContext context, grpc::ByteBuffer& message, Done done) {
  auto job = std::make_unique<Job>();
  job->context = std::move(context);
  job->done = [shadow = shadow_, done = std::move(done)](std::unique_ptr<Job> finished,
                                                         const absl::Status& status) {
    Outcome outcome = Finish(*finished, status);
    if (shadow != nullptr && outcome.status.ok()) shadow->Offer(std::move(finished), outcome.reply);
    finished.reset();  // its memory is free before the client is answered
    done(std::move(outcome));
  };
  const absl::Status status = Guarded(kServer, [&] { return Prepare(*job, message); });
  message.Clear();
  if (!status.ok()) return Complete(std::move(job), status);
  scheduler_.Submit(std::move(job));
}

void Pipeline::Refuse(RequestContext context, grpc::ByteBuffer& message, const absl::Status& reason,
                      Done done) {
  Job job;  // for the log line
  job.context = std::move(context);
  std::string id = ReadRequestId(message, kMaxIdBytes);
  message.Clear();
  LogRequest(job, id, reason);
  done({.id = std::move(id), .status = reason, .reply = {}, .record = {.method = job.context.method}});
}

absl::Status Pipeline::Prepare(Job& job, grpc::ByteBuffer& message) {
  if (!message.Valid()) {
    // gRPC calls the handler all the same when the caller leaves halfway; only the log reads the answer.
    TESSERA_RETURN_IF_ERROR(CheckAlive(job, Clock::now()));
    return absl::CancelledError("the call ended before its message was complete");
  }

  // Codec.
  TESSERA_ASSIGN_OR_RETURN(job.wire, WireRequest::Parse(message, options_.limits.max_message_bytes));
  message.Clear();  // the payload stays where it is, in buffers that job.wire keeps
  TESSERA_ASSIGN_OR_RETURN(
      job.request, DecodeRequest(job.wire->header(), job.wire->TakePayload(), DataRequirement::kRequired));

  // Admission. Size is checked before the outputs are allocated, and validity before size means anything.
  DecodedRequest& request = job.request;
  TESSERA_RETURN_IF_ERROR(Validate(request.problem, DataRequirement::kShapesOnly));
  job.size = SizeOf(request.problem);
  TESSERA_RETURN_IF_ERROR(admission_.CheckSize(job.size, request.output_bytes));

  // Plan.
  TESSERA_ASSIGN_OR_RETURN(job.backend, Resolve(request));
  TESSERA_ASSIGN_OR_RETURN(job.plan, job.backend->MakePlan(request.problem));
  TESSERA_RETURN_IF_ERROR(admission_.CheckWorkspace(*job.backend, job.plan));

  // Before any tensor byte is copied: what is refused in an overload should cost little.
  TESSERA_RETURN_IF_ERROR(scheduler_.CheckReachable(job));

  job.key = LaunchKeyOf(request.problem);
  job.ledger.memory.input = request.input_bytes;
  job.ledger.memory.output = request.output_bytes;
  // What may share a launch is copied straight into it, and what a device keeps in its own memory straight
  // into staging. The rest is placed here, where many requests can be at a time and no launch waits for it.
  if (IsPlacedOnArrival(job)) PlaceOnHost(job);
  return absl::OkStatus();
}

absl::StatusOr<Backend*> Pipeline::Resolve(const DecodedRequest& request) const {
  return registry_.Resolve(request.backend.empty() ? options_.default_backend : request.backend,
                           request.problem);
}

absl::StatusOr<grpc::ByteBuffer> Pipeline::Explain(RequestContext context, const grpc::ByteBuffer& message) {
  Job job;  // for the log line
  job.context = std::move(context);
  absl::StatusOr<grpc::ByteBuffer> reply = Guarded(kServer, [&]() -> absl::StatusOr<grpc::ByteBuffer> {
    TESSERA_ASSIGN_OR_RETURN(const auto wire,
                             WireRequest::ParseExplain(message, options_.limits.max_message_bytes));
    TESSERA_ASSIGN_OR_RETURN(job.request, DecodeRequest(wire->header(), {}, DataRequirement::kShapesOnly));
    TESSERA_RETURN_IF_ERROR(Validate(job.request.problem, DataRequirement::kShapesOnly));
    job.size = SizeOf(job.request.problem);
    TESSERA_ASSIGN_OR_RETURN(job.backend, Resolve(job.request));
    TESSERA_ASSIGN_OR_RETURN(const v1::ExplainResponse response,
                             EncodeExplain(job.request, *job.backend, registry_, admission_));
    return SerializeMessage(response);
  });
  job.ledger.time.total = MicrosecondsSince(job.context.arrival);
  LogRequest(job, "", reply.status());
  metrics_.CountRequest({.method = job.context.method, .backend = job.backend}, reply.status());
  return reply;
}

}  // namespace tessera
