// Calls itself like a shipped backend.
#include "tessera/backend.hpp"

namespace {

class NameTaken : public tessera::plugin::Backend {
 public:
  using Backend::Backend;
  tessera::plugin::Description Describe() const override {
    return {"cpu_fused", "1.0", "goes by a shipped backend's name"};
  }
  void Plan(const tessera_attention_problem&, tessera_plan&) const override {}
  void Enqueue(const tessera_plan&, const tessera_attention_problem&, void*, tessera_stream*) override {}
};

}  // namespace

TESSERA_EXPORT_BACKEND(NameTaken)
