import ComputeRuntime

/// How much memory a plan may take.
enum MemoryBudget {
  /// What was asked for, or what is available; never more than the control groups allow.
  static func bytes(_ requested: Int?) -> Int {
    let machine = MachineProfile.current()
    guard let requested else { return machine.availableMemory }
    return min(requested, machine.memoryLimit ?? requested)
  }
}
