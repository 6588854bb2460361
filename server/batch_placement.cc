#include "server/batch_placement.h"

#include <algorithm>
#include <limits>

#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

// Past this a request's own launch takes longer than packing saves: 1 MiB is about 50 us of memcpy each way.
constexpr int64_t kMaxSharedBytes = int64_t{1} << 20;

// What is copied into staging before its transfer is queued: a transfer runs while the next piece is copied.
constexpr int64_t kPieceBytes = int64_t{4} << 20;

constexpr int64_t kAlignment = 64;  // of every tensor; what Arena rounds to
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max() / 2;

int64_t RoundUp(int64_t bytes) { return tessera::RoundUp(bytes, kAlignment); }

int64_t MaskBytes(const Job& job) {
  int64_t bytes = 0;
  for (const TensorSource& mask : job.request.masks) bytes += RoundUp(mask.bytes());
  return bytes;
}

// The part of `range` that lies in [begin, begin + bytes).
ByteRange Intersection(const ByteRange& range, int64_t begin, int64_t bytes) {
  return {std::max(range.begin, begin), std::min(range.end, begin + bytes)};
}

}  // namespace

bool CanShareLaunch(const Job& job) {
  const DecodedRequest& request = job.request;
  if (request.input_bytes + request.output_bytes > kMaxSharedBytes) return false;
  // All operands of one side must move by the same number of tokens, with no slack between requests.
  const AttentionProblem& p = request.problem;
  const auto tokens = [](int64_t elements, int64_t stride) {
    return stride > 0 ? (elements + stride - 1) / stride : -1;
  };
  const int64_t q = tokens(p.q.num_elements, p.q.token_stride);
  const int64_t o = tokens(p.o.num_elements, p.o.token_stride);
  const int64_t k = tokens(p.k.num_elements, p.k.token_stride);
  const int64_t v = tokens(p.v.num_elements, p.v.token_stride);
  const bool lse_fits = !WantsLse(p) || tokens(p.lse.num_elements, p.lse.token_stride) == q;
  return q >= 0 && q == o && lse_fits && k >= 0 && k == v;
}

bool IsPlacedOnArrival(const Job& job) {
  return job.backend->device().host_accessible() && !CanShareLaunch(job);
}

void PlaceOnHost(Job& job) {
  if (!job.inputs.empty()) return;
  const Clock::time_point begin = Clock::now();
  job.inputs = BindInputs(job.request);
  job.outputs = BindOutputs(job.request);
  MemoryLedger& memory = job.ledger.memory;
  memory.host_copies_in += 1;
  memory.host_copies_in_bytes += TensorBytes(job.request);
  if (job.wire != nullptr) job.wire->ReleaseBuffers();  // the payload must not stay in memory twice
  job.ledger.time.transfer_in = Microseconds(Clock::now() - begin);
}

BatchPlacement::BatchPlacement(Device& device, OutputMemory& output_memory, CopyThreads* copiers)
    : device_(device),
      output_memory_(output_memory),
      copiers_(copiers),
      tensors_(device, TESSERA_MEMORY_DEVICE, kNoLimit),
      staging_(device, TESSERA_MEMORY_PINNED, kNoLimit) {}

absl::StatusOr<AttentionProblem> BatchPlacement::Reserve(const std::vector<Job*>& jobs) {
  jobs_ = jobs;
  outputs_go_in_ =
      std::any_of(jobs_.begin(), jobs_.end(), [](const Job* job) { return job->request.has_padding; });
  transfers_in_ = transfers_out_ = 0;
  TESSERA_RETURN_IF_ERROR(ReserveRegions());
  return MergedProblem();
}

// Where a job's part of an operand begins in the operand's region, in bytes.
int64_t BatchPlacement::OffsetOf(size_t job, Operand operand, const OperandRef& ref) const {
  const int64_t shift = IsOfKeys(operand) ? kv_shifts_[job] : q_shifts_[job];
  return shift * ref.token_stride * ref.element_bytes;
}

absl::Status BatchPlacement::ReserveRegions() {
  q_shifts_.clear();
  kv_shifts_.clear();
  mask_offsets_.clear();
  int64_t q_shift = 0, kv_shift = 0, mask_bytes = 0;
  int64_t bytes[kNumOperands] = {};
  for (size_t j = 0; j < jobs_.size(); ++j) {
    const AttentionProblem& problem = jobs_[j]->request.problem;
    q_shifts_.push_back(q_shift);
    kv_shifts_.push_back(kv_shift);
    mask_offsets_.push_back(mask_bytes);
    mask_bytes += MaskBytes(*jobs_[j]);
    for (const Operand operand : kAllOperands) {
      const OperandRef ref = RefOf(problem, operand);
      if (ref.wanted) bytes[operand] = OffsetOf(j, operand, ref) + ref.bytes();
    }
    q_shift += RefOf(problem, kQ).tokens();
    kv_shift += RefOf(problem, kK).tokens();
  }

  int64_t input_bytes = RoundUp(mask_bytes);
  output_bytes_ = 0;
  for (const Operand operand : kAllOperands) {
    (IsOutput(operand) ? output_bytes_ : input_bytes) += RoundUp(bytes[operand]);
  }
  needed_bytes_ = input_bytes + output_bytes_;
  if (device_.host_accessible()) {
    TESSERA_RETURN_IF_ERROR(tensors_.Begin(input_bytes));
  } else {
    TESSERA_RETURN_IF_ERROR(tensors_.Begin(input_bytes + output_bytes_));
    TESSERA_RETURN_IF_ERROR(staging_.Begin(input_bytes));
  }
  for (const Operand operand : kAllOperands) {
    Region& region = regions_[operand];
    TESSERA_RETURN_IF_ERROR(IsOutput(operand) ? ReserveOutput(bytes[operand], region)
                                              : ReserveInput(bytes[operand], region));
  }
  return ReserveInput(mask_bytes, masks_);
}

absl::Status BatchPlacement::ReserveInput(int64_t bytes, Region& region) {
  TESSERA_ASSIGN_OR_RETURN(void* const device, tensors_.Allocate(bytes));
  region = {
      .device = static_cast<std::byte*>(device), .host = static_cast<std::byte*>(device), .bytes = bytes};
  if (device_.host_accessible()) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(void* const staging, staging_.Allocate(bytes));
  region.host = static_cast<std::byte*>(staging);
  return absl::OkStatus();
}

absl::Status BatchPlacement::ReserveOutput(int64_t bytes, Region& region) {
  region = {.bytes = bytes};
  if (bytes == 0) return absl::OkStatus();  // an LSE that nobody wants, or no rows
  TESSERA_ASSIGN_OR_RETURN(region.shared, output_memory_.Allocate(bytes));
  region.device = region.host = region.shared.get();
  if (device_.host_accessible()) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(void* const device, tensors_.Allocate(bytes));
  region.device = static_cast<std::byte*>(device);
  return absl::OkStatus();
}

AttentionProblem BatchPlacement::MergedProblem() {
  AttentionProblem merged = jobs_.front()->request.problem;
  for (const Operand operand : kAllOperands) {
    const OperandRef ref = RefOf(merged, operand);
    const Region& region = regions_[operand];
    if (ref.wanted) SetMemory(merged, operand, region.device, region.bytes / ref.element_bytes);
  }

  sequences_.clear();
  for (size_t j = 0; j < jobs_.size(); ++j) {
    const DecodedRequest& request = jobs_[j]->request;
    const std::byte* mask = masks_.device + mask_offsets_[j];
    for (size_t s = 0; s < request.sequences.size(); ++s) {
      Sequence sequence = request.sequences[s];
      sequence.q_begin += q_shifts_[j];
      sequence.kv_begin += kv_shifts_[j];
      if (!request.masks.empty()) {
        // One mask serves all sequences (its batch rows by offset), or each has its own.
        const bool shared = request.masks.size() == 1;
        sequence.mask = mask + request.mask_offsets[s];
        if (!shared) mask += RoundUp(request.masks[s].bytes());
      }
      sequences_.push_back(sequence);
    }
  }
  merged.sequences = sequences_.data();
  merged.num_sequences = static_cast<int64_t>(sequences_.size());
  merged.q_scales = MergedScales(&AttentionProblem::q_scales, merged.num_q_heads, q_scales_);
  merged.k_scales = MergedScales(&AttentionProblem::k_scales, merged.num_kv_heads, k_scales_);
  merged.v_scales = MergedScales(&AttentionProblem::v_scales, merged.num_kv_heads, v_scales_);
  return merged;
}

// One job's scales as they are; of several jobs, (sequence, head) in `values`, unless no job has any.
tessera_scales BatchPlacement::MergedScales(tessera_scales AttentionProblem::*scales, int32_t heads,
                                            std::vector<float>& values) const {
  if (jobs_.size() == 1) return jobs_.front()->request.problem.*scales;
  const bool has_any = std::any_of(jobs_.begin(), jobs_.end(), [scales](const Job* job) {
    return (job->request.problem.*scales).data != nullptr;
  });
  if (!has_any) return {};
  values.clear();
  for (const Job* const job : jobs_) {
    const AttentionProblem& problem = job->request.problem;
    for (int64_t n = 0; n < problem.num_sequences; ++n) {
      for (int32_t h = 0; h < heads; ++h) values.push_back(ScaleOf(problem.*scales, n, h));
    }
  }
  return {.data = values.data(), .sequence_stride = heads, .head_stride = 1};
}

absl::Status BatchPlacement::MoveMasksIn(tessera_stream* stream) {
  for (size_t j = 0; j < jobs_.size(); ++j) {
    std::byte* to = masks_.host + mask_offsets_[j];
    for (const TensorSource& mask : jobs_[j]->request.masks) {
      mask.CopyTo(to, 0, mask.bytes());
      to += RoundUp(mask.bytes());
    }
  }
  return QueueTransfer(masks_, {0, masks_.bytes}, TESSERA_COPY_HOST_TO_DEVICE, stream, transfers_in_);
}

std::vector<BatchPlacement::Piece> BatchPlacement::CutIntoPieces(const OperandRanges& ranges) const {
  std::vector<Piece> pieces;
  for (const Operand operand : kAllOperands) {
    if (IsOutput(operand) && !outputs_go_in_) continue;
    const ByteRange& range = ranges[operand];
    for (int64_t begin = range.begin; begin < range.end; begin += kPieceBytes) {
      pieces.push_back({operand, {begin, std::min(begin + kPieceBytes, range.end)}});
    }
  }
  return pieces;
}

// As many pieces at a time as there are threads: while they are copied, those before them are on their way.
absl::Status BatchPlacement::MoveIn(const OperandRanges& ranges, tessera_stream* stream) {
  const std::vector<Piece> pieces = CutIntoPieces(ranges);
  const size_t at_a_time = copiers_ == nullptr ? 1 : static_cast<size_t>(copiers_->size());
  for (size_t begin = 0; begin < pieces.size(); begin += at_a_time) {
    const size_t end = std::min(begin + at_a_time, pieces.size());
    const auto copy = [&](int i) { CopyIn(pieces[begin + static_cast<size_t>(i)]); };
    if (copiers_ == nullptr) {
      copy(0);
    } else {
      copiers_->Run(static_cast<int>(end - begin), copy);
    }
    for (size_t i = begin; i < end; ++i) {
      TESSERA_RETURN_IF_ERROR(QueueTransfer(regions_[pieces[i].operand], pieces[i].range,
                                            TESSERA_COPY_HOST_TO_DEVICE, stream, transfers_in_));
    }
  }
  return absl::OkStatus();
}

bool BatchPlacement::GoesIn(const Job& job, Operand operand) const {
  return !IsOutput(operand) || job.request.has_padding;
}

void BatchPlacement::CopyIn(const Piece& piece) {
  const auto& [operand, range] = piece;
  for (size_t j = 0; j < jobs_.size(); ++j) {
    const OperandRef ref = RefOf(jobs_[j]->request.problem, operand);
    if (!ref.wanted || !GoesIn(*jobs_[j], operand)) continue;
    const int64_t offset = OffsetOf(j, operand, ref);
    const ByteRange part = Intersection(range, offset, ref.bytes());
    if (part.bytes() <= 0) continue;
    std::byte* const to = regions_[operand].host + part.begin;
    if (IsOutput(operand)) {
      FillPadding(operand == kLse ? v1::OUTPUT_KIND_LSE : v1::OUTPUT_KIND_OUTPUT, to, part.bytes());
    } else {
      jobs_[j]->request.inputs[operand].CopyTo(to, part.begin - offset, part.bytes());
    }
  }
}

// Counts the transfer in `count`; none is needed where the host writes and reads device memory.
absl::Status BatchPlacement::QueueTransfer(const Region& region, const ByteRange& range, CopyKind kind,
                                           tessera_stream* stream, int64_t& count) {
  if (device_.host_accessible() || range.bytes() <= 0) return absl::OkStatus();
  ++count;
  std::byte* const device = region.device + range.begin;
  std::byte* const host = region.host + range.begin;
  const bool in = kind == TESSERA_COPY_HOST_TO_DEVICE;
  return device_.CopyAsync(in ? device : host, in ? host : device, static_cast<size_t>(range.bytes()), kind,
                           stream);
}

absl::Status BatchPlacement::QueueMoveOut(const OperandRanges& ranges, tessera_stream* stream) {
  for (const Operand operand : {kO, kLse}) {
    TESSERA_RETURN_IF_ERROR(QueueTransfer(regions_[operand], ranges[operand], TESSERA_COPY_DEVICE_TO_HOST,
                                          stream, transfers_out_));
  }
  return absl::OkStatus();
}

std::vector<OutputBytes> BatchPlacement::OutputsOf(size_t job) const {
  const DecodedRequest& request = jobs_[job]->request;
  std::vector<OutputBytes> outputs;
  for (const OutputSpec& spec : request.outputs) {
    const Operand operand = spec.kind == v1::OUTPUT_KIND_LSE ? kLse : kO;
    const int64_t offset = OffsetOf(job, operand, RefOf(request.problem, operand));
    outputs.emplace_back(regions_[operand].shared, offset, spec.bytes);
  }
  return outputs;
}

void BatchPlacement::HandOver() {
  for (size_t j = 0; j < jobs_.size(); ++j) {
    Job& job = *jobs_[j];
    job.outputs = OutputsOf(j);
    const int64_t tensor_bytes = TensorBytes(job.request);
    MemoryLedger& memory = job.ledger.memory;
    memory.host_copies_in += 1;
    memory.host_copies_in_bytes += tensor_bytes;
    memory.device_peak += tensors_.high_water_bytes();
    if (device_.host_accessible()) {
      memory.device_peak += output_bytes_;
      continue;
    }
    memory.staging_peak += staging_.high_water_bytes() + output_bytes_;
    memory.transfers_to_device += transfers_in_;
    memory.transfers_to_device_bytes +=
        tensor_bytes + (job.request.has_padding ? job.request.output_bytes : 0);
    memory.transfers_from_device += transfers_out_;
    memory.transfers_from_device_bytes += job.request.output_bytes;
  }
  for (const Operand operand : {kO, kLse}) regions_[operand] = {};  // the jobs' now
}

void BatchPlacement::Release() {
  tensors_.Release();
  staging_.Release();
}

}  // namespace tessera
