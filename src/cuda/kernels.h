// The stages of the CUDA backend: each records its launches and returns.
#pragma once
#include "device.h"

namespace seer::cuda {

void pool(CudaDevice &device, Exec &exec, const PoolArgs &args);
void project(CudaDevice &device, Exec &exec, const ProjectArgs &args);
void gate_vectors(CudaDevice &device, Exec &exec, const GateVectorArgs &args);
void score(CudaDevice &device, Exec &exec, const ScoreArgs &args);
void select(CudaDevice &device, Exec &exec, const SelectArgs &args);
void attend(CudaDevice &device, Exec &exec, const AttendArgs &args);
uint64_t select_scratch(const CudaDevice &device, const SelectArgs &args);
uint64_t attend_scratch(const CudaDevice &device, const AttendArgs &args);
void pack_mask(CudaDevice &device, Exec &exec, const MaskBytesArgs &args);
void unpack_mask(CudaDevice &device, Exec &exec, const MaskBytesArgs &args);

}  // namespace seer::cuda
