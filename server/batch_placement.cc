#include "server/batch_placement.h"

#include <cstring>
#include <limits>

#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

// Past this a request's own launch takes longer than packing saves: 1 MiB is about 50 us of memcpy each way.
constexpr int64_t kMaxSharedBytes = int64_t{1} << 20;

constexpr int64_t kAlignment = 64;  // of every tensor; what Arena rounds to
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max() / 2;

int64_t RoundUp(int64_t bytes) { return tessera::RoundUp(bytes, kAlignment); }

int64_t MaskBytes(const Job& job) {
  int64_t bytes = 0;
  for (const HostSpan& mask : job.request.masks) bytes += RoundUp(mask.bytes);
  return bytes;
}

}  // namespace

// An operand of one job, as bytes.
struct BatchPlacement::OperandRef {
  std::byte* data;
  int64_t num_elements, token_stride, element_bytes;
  bool wanted;

  int64_t bytes() const { return num_elements * element_bytes; }
  // Tokens that the memory covers, the last one perhaps in part.
  int64_t tokens() const { return token_stride > 0 ? (num_elements + token_stride - 1) / token_stride : 0; }
};

BatchPlacement::OperandRef BatchPlacement::RefOf(const AttentionProblem& p, Operand operand) {
  if (operand == kLse) {
    return {reinterpret_cast<std::byte*>(p.lse.data), p.lse.num_elements, p.lse.token_stride, sizeof(float),
            WantsLse(p)};
  }
  const TensorView* const views[] = {&p.q, &p.k, &p.v, &p.o};
  const TensorView& view = *views[operand];
  return {static_cast<std::byte*>(view.data), view.num_elements, view.token_stride, DTypeSize(view.dtype),
          true};
}

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

BatchPlacement::BatchPlacement(Device& device)
    : device_(device),
      tensors_(device, TESSERA_MEMORY_DEVICE, kNoLimit),
      staging_(device, TESSERA_MEMORY_PINNED, kNoLimit) {}

int64_t BatchPlacement::ShiftOf(size_t job, Operand operand) const {
  return operand == kK || operand == kV ? kv_shifts_[job] : q_shifts_[job];
}

std::byte* BatchPlacement::HostAt(size_t job, Operand operand, const OperandRef& ref) const {
  return regions_[operand].host + ShiftOf(job, operand) * ref.token_stride * ref.element_bytes;
}

absl::StatusOr<AttentionProblem> BatchPlacement::Place(const std::vector<Job*>& jobs,
                                                       tessera_stream* stream) {
  TESSERA_RETURN_IF_ERROR(AllocateRegions(jobs));
  CopyIn(jobs);
  for (const Operand operand : {kQ, kK, kV}) {
    TESSERA_RETURN_IF_ERROR(QueueTransfer(regions_[operand], TESSERA_COPY_HOST_TO_DEVICE, stream));
  }
  TESSERA_RETURN_IF_ERROR(QueueTransfer(masks_, TESSERA_COPY_HOST_TO_DEVICE, stream));
  if (outputs_go_in_) {
    TESSERA_RETURN_IF_ERROR(QueueTransfer(regions_[kO], TESSERA_COPY_HOST_TO_DEVICE, stream));
    TESSERA_RETURN_IF_ERROR(QueueTransfer(regions_[kLse], TESSERA_COPY_HOST_TO_DEVICE, stream));
  }
  return MergedProblem(jobs);
}

absl::Status BatchPlacement::AllocateRegions(const std::vector<Job*>& jobs) {
  q_shifts_.clear();
  kv_shifts_.clear();
  mask_offsets_.clear();
  int64_t q_shift = 0, kv_shift = 0, mask_bytes = 0;
  int64_t bytes[kNumOperands] = {};
  for (const Job* job : jobs) {
    q_shifts_.push_back(q_shift);
    kv_shifts_.push_back(kv_shift);
    mask_offsets_.push_back(mask_bytes);
    mask_bytes += MaskBytes(*job);
    for (int i = 0; i < kNumOperands; ++i) {
      const auto operand = static_cast<Operand>(i);
      const OperandRef ref = RefOf(job->request.problem, operand);
      if (!ref.wanted) continue;
      bytes[i] = ShiftOf(q_shifts_.size() - 1, operand) * ref.token_stride * ref.element_bytes + ref.bytes();
    }
    q_shift += RefOf(job->request.problem, kQ).tokens();
    kv_shift += RefOf(job->request.problem, kK).tokens();
  }

  int64_t total = RoundUp(mask_bytes);
  for (const int64_t operand_bytes : bytes) total += RoundUp(operand_bytes);
  TESSERA_RETURN_IF_ERROR(tensors_.Begin(total));
  if (!device_.host_accessible()) TESSERA_RETURN_IF_ERROR(staging_.Begin(total));
  for (int i = 0; i < kNumOperands; ++i) TESSERA_RETURN_IF_ERROR(AllocateRegion(bytes[i], regions_[i]));
  return AllocateRegion(mask_bytes, masks_);
}

absl::Status BatchPlacement::AllocateRegion(int64_t bytes, Region& region) {
  TESSERA_ASSIGN_OR_RETURN(void* const device, tensors_.Allocate(bytes));
  region = {
      .device = static_cast<std::byte*>(device), .host = static_cast<std::byte*>(device), .bytes = bytes};
  if (device_.host_accessible()) return absl::OkStatus();
  TESSERA_ASSIGN_OR_RETURN(void* const staging, staging_.Allocate(bytes));
  region.host = static_cast<std::byte*>(staging);
  return absl::OkStatus();
}

void BatchPlacement::CopyIn(const std::vector<Job*>& jobs) {
  outputs_go_in_ = false;
  for (size_t j = 0; j < jobs.size(); ++j) {
    const DecodedRequest& request = jobs[j]->request;
    for (int i = 0; i < kNumOperands; ++i) {
      const auto operand = static_cast<Operand>(i);
      const OperandRef ref = RefOf(request.problem, operand);
      const bool is_output = operand == kO || operand == kLse;
      if (!ref.wanted || ref.bytes() == 0 || (is_output && !request.has_padding)) continue;
      std::memcpy(HostAt(j, operand, ref), ref.data, static_cast<size_t>(ref.bytes()));
    }
    outputs_go_in_ = outputs_go_in_ || request.has_padding;
    std::byte* to = masks_.host + mask_offsets_[j];
    for (const HostSpan& mask : request.masks) {
      if (mask.bytes > 0) std::memcpy(to, mask.data, static_cast<size_t>(mask.bytes));
      to += RoundUp(mask.bytes);
    }
  }
}

absl::Status BatchPlacement::QueueTransfer(const Region& region, CopyKind kind, tessera_stream* stream) {
  if (device_.host_accessible() || region.bytes == 0) return absl::OkStatus();
  const bool in = kind == TESSERA_COPY_HOST_TO_DEVICE;
  return device_.CopyAsync(in ? region.device : region.host, in ? region.host : region.device,
                           static_cast<size_t>(region.bytes), kind, stream);
}

AttentionProblem BatchPlacement::MergedProblem(const std::vector<Job*>& jobs) {
  AttentionProblem merged = jobs.front()->request.problem;
  TensorView* const views[] = {&merged.q, &merged.k, &merged.v, &merged.o};
  for (int i = kQ; i <= kO; ++i) {
    views[i]->data = regions_[i].device;
    views[i]->num_elements = regions_[i].bytes / DTypeSize(views[i]->dtype);
  }
  if (WantsLse(merged)) {
    merged.lse.data = reinterpret_cast<float*>(regions_[kLse].device);
    merged.lse.num_elements = regions_[kLse].bytes / static_cast<int64_t>(sizeof(float));
  }

  sequences_.clear();
  for (size_t j = 0; j < jobs.size(); ++j) {
    const DecodedRequest& request = jobs[j]->request;
    const std::byte* mask = masks_.device + mask_offsets_[j];
    for (size_t s = 0; s < request.sequences.size(); ++s) {
      Sequence sequence = request.sequences[s];
      sequence.q_begin += q_shifts_[j];
      sequence.kv_begin += kv_shifts_[j];
      if (!request.masks.empty()) {
        // One mask serves all sequences (its batch rows by offset), or each has its own.
        const bool shared = request.masks.size() == 1;
        const HostSpan& span = request.masks[shared ? 0 : s];
        sequence.mask = mask + (static_cast<const std::byte*>(sequence.mask) - span.data);
        if (!shared) mask += RoundUp(span.bytes);
      }
      sequences_.push_back(sequence);
    }
  }
  merged.sequences = sequences_.data();
  merged.num_sequences = static_cast<int64_t>(sequences_.size());
  return merged;
}

absl::Status BatchPlacement::QueueCollect(tessera_stream* stream) {
  TESSERA_RETURN_IF_ERROR(QueueTransfer(regions_[kO], TESSERA_COPY_DEVICE_TO_HOST, stream));
  return QueueTransfer(regions_[kLse], TESSERA_COPY_DEVICE_TO_HOST, stream);
}

void BatchPlacement::Scatter(const std::vector<Job*>& jobs) {
  for (size_t j = 0; j < jobs.size(); ++j) {
    const DecodedRequest& request = jobs[j]->request;
    for (const Operand operand : {kO, kLse}) {
      const OperandRef ref = RefOf(request.problem, operand);
      if (!ref.wanted || ref.bytes() == 0) continue;
      std::memcpy(ref.data, HostAt(j, operand, ref), static_cast<size_t>(ref.bytes()));
    }

    int64_t tensor_bytes = 0;
    for (const Operand operand : {kQ, kK, kV}) tensor_bytes += RefOf(request.problem, operand).bytes();
    for (const HostSpan& mask : request.masks) tensor_bytes += mask.bytes;
    if (request.has_padding) tensor_bytes += request.output_bytes;
    const bool wants_lse = WantsLse(request.problem);
    MemoryLedger& memory = jobs[j]->ledger.memory;
    memory.host_copies_in += 1;
    memory.host_copies_in_bytes += tensor_bytes;
    memory.host_copies_out += 1;
    memory.host_copies_out_bytes += request.output_bytes;
    memory.device_peak += tensors_.high_water_bytes();
    if (device_.host_accessible()) continue;
    memory.staging_peak += staging_.high_water_bytes();
    memory.transfers_to_device +=
        3 + (masks_.bytes > 0 ? 1 : 0) + (outputs_go_in_ ? 1 + (wants_lse ? 1 : 0) : 0);
    memory.transfers_to_device_bytes += tensor_bytes;
    memory.transfers_from_device += wants_lse ? 2 : 1;
    memory.transfers_from_device_bytes += request.output_bytes;
  }
}

}  // namespace tessera
