import ComputeRuntime
import TensorKernels
import Testing

@Suite struct ProcessMemoryTests {
  private static let status = """
    Name:\thearth
    VmPeak:\t  900000 kB
    VmHWM:\t  300000 kB
    VmRSS:\t  200000 kB
    RssAnon:\t  120000 kB
    RssFile:\t   70000 kB
    RssShmem:\t   10000 kB
    Threads:\t3

    """

  @Test func residentMemoryIsSplitIntoAnonymousAndMapped() throws {
    let memory = try #require(ProcessMemory(status: Self.status))
    #expect(memory.resident == 200_000 * 1024)
    #expect(memory.anonymous == 120_000 * 1024)
    #expect(memory.mapped == 80_000 * 1024)
    #expect(memory.peak == 300_000 * 1024)
  }

  @Test func aStatusWithoutResidentMemoryIsNotAnAnswer() {
    #expect(ProcessMemory(status: "Name:\tkthreadd\nThreads:\t1\n") == nil)
  }

  // Both measure a whole process, so each gets one of its own: in this one other tests come and go by hundreds of
  // megabytes.
  @Test func touchedMemoryShowsAsAnonymousAndInThePeak() async {
    await #expect(processExitsWith: .success) {
      let before = try #require(ProcessMemory.current())
      let bytes = 64 << 20
      let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 4096)
      memory.initializeMemory(as: UInt8.self, repeating: 1, count: bytes)
      let during = try #require(ProcessMemory.current())
      memory.deallocate()
      // Half of what was touched is proof enough.
      #expect(during.anonymous > before.anonymous + bytes / 2)
      #expect(during.peak >= during.anonymous)
    }
  }

  @Test func freedMemoryBetweenWhatStaysGoesBackWhenItIsAsked() async {
    await #expect(processExitsWith: .success) {
      // Blocks too small to be mapped each by itself; those that stay keep the heap from becoming shorter.
      let (count, bytes, stays) = (1024, 96 << 10, 16)
      let blocks = (0..<count).map { _ in
        let block = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 16)
        block.initializeMemory(as: UInt8.self, repeating: 1, count: bytes)
        return block
      }
      for index in blocks.indices where index % stays != 0 { blocks[index].deallocate() }
      let before = try #require(ProcessMemory.current())
      AllocatorSettings.giveFreedMemoryBack()
      let after = try #require(ProcessMemory.current())
      for index in blocks.indices where index % stays == 0 { blocks[index].deallocate() }
      // Half of what was freed is proof enough.
      #expect(after.anonymous < before.anonymous - count * bytes / 2)
    }
  }

  @Test func memoryThatAnArenaGivesUpLeavesTheProcessAndTheRestStays() async {
    await #expect(processExitsWith: .success) {
      let floats = 16 << 20
      let arena = Arena(floatCount: floats)
      for index in 0..<floats { arena.base[index] = Float(index) }
      let before = try #require(ProcessMemory.current())
      // Neither end lies on a page's.
      arena.discard(7..<floats / 2 + 9)
      let after = try #require(ProcessMemory.current())
      #expect(after.anonymous < before.anonymous - 24 << 20)
      #expect((0..<7).allSatisfy { arena.base[$0] == Float($0) })
      #expect((floats / 2 + 9..<floats).allSatisfy { arena.base[$0] == Float($0) })
    }
  }
}

@Suite struct ControlGroupTests {
  private func limits(_ membership: String, _ files: [String: String]) -> ControlGroupLimits {
    ControlGroupLimits(membership: membership, mount: "/cg", read: { files[$0] })
  }

  @Test func aProcessWithoutGroupsHasNoLimits() {
    let limits = limits("", [:])
    #expect(limits.cores == nil && limits.memory == nil && limits.memoryLeft == nil)
  }

  @Test func version2TakesTheTightestLimitOfAllAncestors() {
    let limits = limits(
      "0::/user/job\n",
      [
        "/cg/user/job/cpu.max": "max 100000\n", "/cg/user/cpu.max": "150000 100000\n",
        "/cg/user/job/memory.max": "4096\n", "/cg/user/job/memory.current": "3000\n",
        "/cg/user/job/memory.stat": "anon 1000\ninactive_file 2000\n",
        "/cg/user/memory.max": "8192\n", "/cg/user/memory.current": "8000\n",
      ])
    #expect(limits.cores == 1.5 && limits.period == 100_000 * 1e-6)
    #expect(limits.memory == 4096)
    #expect(limits.memoryLeft == 192)
  }

  @Test func version1ReadsTheMountsRootWhenTheOwnPathIsNotMounted() {
    let limits = limits(
      "4:memory:/outside/box\n2:cpu,cpuacct:/outside/box\n",
      [
        "/cg/cpu/cpu.cfs_quota_us": "50000\n", "/cg/cpu/cpu.cfs_period_us": "100000\n",
        "/cg/memory/memory.limit_in_bytes": "1000000\n", "/cg/memory/memory.usage_in_bytes": "400000\n",
        "/cg/memory/memory.stat": "cache 9\ntotal_inactive_file 100000\n",
      ])
    #expect(limits.cores == 0.5 && limits.period == 100_000 * 1e-6)
    #expect(limits.memory == 1_000_000)
    #expect(limits.memoryLeft == 700_000)
  }

  @Test func aMessageWaitsForWhatIsLeftOfAPeriodWhenTheQuotaIsUsedUp() {
    var machine = MachineProfile.current()
    (machine.coreQuota, machine.quotaPeriod) = (0.2, 0.020)
    // It comes at any time of the period: in 16 of 20 ms nothing runs, and then it waits 8 ms in the mean.
    #expect(abs(machine.standstill(threads: 1) - 0.0064) < 1e-9)
    // Two threads use the quota up in 2 ms.
    #expect(abs(machine.standstill(threads: 2) - 0.0081) < 1e-9)
    (machine.coreQuota, machine.quotaPeriod) = (2, 0.1)
    #expect(machine.standstill(threads: 2) == 0)
    (machine.coreQuota, machine.quotaPeriod) = (nil, nil)
    #expect(machine.standstill(threads: 2) == 0)
  }

  @Test func version1WritesNoLimitAsAHugeNumberAndNoQuotaAsMinusOne() {
    let limits = limits(
      "4:memory:/\n2:cpu:/\n",
      [
        "/cg/cpu/cpu.cfs_quota_us": "-1\n", "/cg/cpu/cpu.cfs_period_us": "100000\n",
        "/cg/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "/cg/memory/memory.usage_in_bytes": "400000\n",
      ])
    #expect(limits.cores == nil && limits.memory == nil)
  }

  @Test(arguments: ["", "nonsense", "0:", "0::", "4:memory", ":::", "0::/a\0b"])
  func aMalformedMembershipGivesNoLimitsAndNoCrash(membership: String) {
    #expect(limits(membership, [:]).cores == nil)
  }
}

@Suite struct MachineProfileTests {
  @Test(arguments: [
    ("Cpus_allowed:\t3\n", 2), ("Name:\tx\nCpus_allowed:\tff,00000001\n", 9),
    ("Cpus_allowed_list:\t0-1\nCpus_allowed:\t8\n", 1),
  ])
  func affinityCountsTheBitsOfTheKernelsMask(status: String, cores: Int) {
    #expect(affinityCount(status: status) == cores)
  }

  @Test func aMissingOrEmptyMaskIsNoAnswer() {
    #expect(affinityCount(status: "Name:\tx\n") == nil)
    #expect(affinityCount(status: "Cpus_allowed:\t0\n") == nil)
  }

  @Test func theMachineHasCoresAndMemory() {
    let machine = MachineProfile.current()
    #expect(machine.usableCores >= 1)
    #expect(machine.usableCores <= machine.onlineCores)
    #expect(machine.availableMemory > 0)
    #expect(machine.availableMemory <= machine.totalMemory)
  }

  @Test func freeDiskOfAPathThatIsNotThereYetIsThatOfItsParent() throws {
    let root = try #require(MachineProfile.freeDiskBytes(at: "/tmp"))
    let deeper = try #require(MachineProfile.freeDiskBytes(at: "/tmp/not/there/yet"))
    #expect(root > 0 && deeper > 0)
    #expect(MachineProfile.freeDiskBytes(at: "relative-and-missing") != nil)
  }

  @Test func theMonotonicClockDoesNotGoBack() {
    var last = MonotonicClock.nanoseconds()
    for _ in 0..<1_000 {
      let now = MonotonicClock.nanoseconds()
      #expect(now >= last)
      last = now
    }
  }
}
