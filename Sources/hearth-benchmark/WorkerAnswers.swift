import ComputeRuntime
import HearthNode
import TensorKernels

/// The facts that a table needs beside its numbers.
struct ReadyAnswer: Encodable {
  /// The matrix library and whether its kernels suit this CPU.
  struct BLAS: Encodable {
    let core: String
    let library: String
    let contradictsCPU: Bool
    let explanation: String
  }

  let ready = true
  let version = hearthVersion
  let workload: String
  let threads: Int
  let trainableParameters: Int
  let cpu: String
  let kernels: String
  let blas: BLAS

  init(scenario: any Scenario, threads: Int, blas: BLASReport) {
    let features = CPUFeatures.detect()
    workload = scenario.workload.name
    self.threads = threads
    trainableParameters = scenario.trainableParameters
    cpu = features.brand
    kernels = features.kernelSet
    self.blas = BLAS(
      core: blas.coreName, library: blas.library, contradictsCPU: blas.contradictsCPU,
      explanation: blas.explanation)
  }

  private enum CodingKeys: CodingKey {
    case ready, version, workload, threads, trainableParameters, cpu, kernels, blas
  }
}

/// One step's time.
struct StepAnswer: Encodable {
  let seconds: Double
  let samples: Int
  /// Heap allocations during the step, where a library counts them.
  let allocations: UInt64?
}

/// The workload that steps run on from now.
struct WorkloadAnswer: Encodable {
  let workload: String
  let batches: Int
}

/// What the process holds in memory, in bytes.
struct MemoryAnswer: Encodable {
  let anonymousBytes: Int
  let fileBytes: Int
  let peakBytes: Int

  init(_ memory: ProcessMemory) {
    anonymousBytes = memory.anonymous
    fileBytes = memory.mapped
    peakBytes = memory.peak
  }
}

/// What OpenBLAS alone takes for the products of a forward.
struct SgemmAnswer: Encodable {
  let seconds: Double
  let gigaflop: Double
}
