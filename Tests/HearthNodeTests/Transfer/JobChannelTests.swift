import DistributedTraining
import HearthNode
import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
import Testing
import TrainingCoordination

@Suite("A job's channel over the mesh", .timeLimit(.minutes(5)))
struct JobChannelTests {
  @Test("delivers messages of a tag in order, whole, whatever their length", arguments: Carriage.allCases)
  func order(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 2)
    let channels = bench.open()
    let lengths = [0, 1, 61_439, 61_440, 61_441, 200_000, 0, 3_000_000, 7]
    let tag = JobTag(.forward, step: 9, unit: 1, part: 2)
    async let sent: Void = onThread {
      for (index, length) in lengths.enumerated() { try channels[0].send(pattern(index, length), tag, to: 1) }
    }
    let received = try await onThread {
      try lengths.indices.map { _ in try channels[1].receive(tag, from: 0) }
    }
    try await sent
    #expect(received.map(\.count) == lengths)
    #expect(received == lengths.enumerated().map { pattern($0, $1) })
    let traffic = channels[0].traffic[1].sent
    #expect(traffic >= UInt64(lengths.reduce(0, +)) && channels[1].traffic[0].received == traffic)
    await bench.shutdown()
  }

  @Test("keeps many tags of many threads in three devices apart", arguments: Carriage.allCases)
  func manyTags(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 3)
    let channels = bench.open()
    try await withThrowingTaskGroup(of: Bool.self) { group in
      for from in 0..<3 {
        for to in 0..<3 {
          for kind in JobMessageKind.allCases {
            group.addTask {
              try await onThread {
                for step in 0..<20 {
                  let tag = JobTag(kind, step: UInt64(step), unit: UInt32(from), part: UInt32(to))
                  try channels[from].send(pattern(from * 7 + to + step, 5_000 * step), tag, to: to)
                }
                return true
              }
            }
            group.addTask {
              try await onThread {
                // Backwards, so that what is read first came last.
                try (0..<20).reversed().allSatisfy { step in
                  let tag = JobTag(kind, step: UInt64(step), unit: UInt32(from), part: UInt32(to))
                  return try channels[to].receive(tag, from: from)
                    == pattern(from * 7 + to + step, 5_000 * step)
                }
              }
            }
          }
        }
      }
      for try await isRight in group { #expect(isRight) }
    }
    await bench.shutdown()
  }

  @Test(
    "ends every reader of a link when the channel gives up, whatever message it waits for",
    arguments: Carriage.allCases)
  func readersEnd(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 2)
    let channels = bench.open()
    await withTaskGroup(of: JobChannelFailure?.self) { group in
      for step in 0..<8 {
        group.addTask {
          await failure { _ = try channels[1].receive(JobTag(.allGather, step: UInt64(step / 2)), from: 0) }
        }
      }
      group.addTask {
        // A message that nobody waits for, and then the end.
        await failure {
          try channels[0].send([1], JobTag(.share, step: 9), to: 1)
          channels[0].abort("enough")
        }
      }
      var ended = 0
      for await failure in group where failure == .aborted("enough") { ended += 1 }
      #expect(ended == 8)
    }
    await bench.shutdown()
  }

  @Test("stops the sender when nobody reads, and goes on when somebody does", arguments: Carriage.allCases)
  func backPressure(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 2)
    let channels = bench.open()
    let message = pattern(1, 8 << 20)
    let count = 20
    let sender = Task {
      try await onThread {
        for step in 0..<count { try channels[0].send(message, JobTag(.taps, step: UInt64(step)), to: 1) }
      }
    }
    // All of it is more than may wait and than the queues take; the sender cannot have finished before the first is read.
    var last: UInt64 = 0
    repeat {
      last = channels[1].traffic[0].received
      try await onThread { for _ in 0..<200_000 { _ = channels[1].traffic } }
    } while channels[1].traffic[0].received != last || last < 120 << 20
    #expect(last <= 128 << 20, "the receiver held \(last) bytes that nobody read")
    // The last one first: it lies behind all others, and the reader must not wait for ever.
    for step in (0..<count).reversed() {
      let received = try await onThread {
        try channels[1].receive(JobTag(.taps, step: UInt64(step)), from: 0)
      }
      #expect(received == message)
    }
    try await sender.value
    await bench.shutdown()
  }

  @Test("reads the connection on when nobody reads its messages, so that it never looks like a dead device's")
  func wordsPass() async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    let channels = bench.open()
    let sender = Task {
      try await onThread {
        for step in 0... {
          try channels[0].send(
            [UInt8](repeating: 1, count: 8 << 20), JobTag(.taps, step: UInt64(step)), to: 1)
        }
      }
    }
    try await onThread { while channels[1].traffic[0].received < 120 << 20 {} }
    channels[0].abort("enough")
    let reader = await failure {
      while try channels[1].poll(JobTag(.share, step: 1), from: 0) == nil {}
    }
    #expect(reader == .aborted("enough"))
    await #expect(throws: JobChannelFailure.aborted("enough")) { try await sender.value }
    await bench.shutdown()
  }

  @Test("fails rather than holding more than its limit for a reader of something else")
  func overLimit() async throws {
    let bench = try await TransferBench(.memory, devices: 2)
    let channels = bench.open()
    async let reader = failure { try channels[1].receive(JobTag(.share, step: 1), from: 0) }
    async let sender = failure {
      while true {
        try channels[0].send([UInt8](repeating: 1, count: 32 << 20), JobTag(.taps, step: 0), to: 1)
      }
    }
    guard case .aborted(let reason)? = await reader else {
      Issue.record("the reader was not told")
      return
    }
    #expect(reason.contains("448 MiB"))
    #expect(await sender == .aborted(reason))
    await bench.shutdown()
  }

  @Test(
    "waits for the other side to begin the plan epoch, and keeps what came before",
    arguments: Carriage.allCases)
  func earlySession(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 2)
    for (early, late) in [(0, 1), (1, 0)] {
      let stamp = JobStamp(job: JobID(5, UInt64(early)), term: 0, epoch: 1)
      let first = bench.devices[early].desk.openChannel(stamp, roster: bench.roster)
      let tag = JobTag(.parameters, step: 0)
      async let sent: Void = onThread {
        for index in 0..<4 { try first.send(pattern(index, 100_000), tag, to: late) }
      }
      if bench.devices[early].id < bench.devices[late].id { try await sent }
      let second = bench.devices[late].desk.openChannel(stamp, roster: bench.roster)
      for index in 0..<4 {
        #expect(try await onThread { try second.receive(tag, from: early) } == pattern(index, 100_000))
      }
      try await sent
    }
    await bench.shutdown()
  }

  @Test("is dialled by the other side when one direction is shut", arguments: [0, 1])
  func oneWay(shut: Int) async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    bench.devices[shut].refusesToDial.withLock { $0 = true }
    let channels = bench.open()
    async let sent: Void = onThread { try channels[0].send([1, 2, 3], JobTag(.share, step: 1), to: 1) }
    #expect(try await onThread { try channels[1].receive(JobTag(.share, step: 1), from: 0) } == [1, 2, 3])
    try await sent
    await bench.shutdown()
  }

  @Test(
    "tells all devices why a job was aborted, and fails every call after that", arguments: Carriage.allCases)
  func abort(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 3)
    let channels = bench.open()
    for channel in channels { try await onThread { try channel.waitUntilOpen() } }
    async let second = failure { try channels[1].receive(JobTag(.forward, step: 0), from: 2) }
    async let third = failure { try channels[2].receive(JobTag(.forward, step: 0), from: 1) }
    channels[0].abort("the owner stopped the job")
    let expected = JobChannelFailure.aborted("the owner stopped the job")
    let ends = await [second, third]
    #expect(ends == [expected, expected])
    for channel in channels {
      #expect(channel.failure == expected)
      #expect(await failure { try channel.receive(JobTag(.share, step: 9), from: 0) } == expected)
      let next = (channel.place + 1) % 3
      #expect(await failure { try channel.send([1], JobTag(.share, step: 9), to: next) } == expected)
    }
    await bench.shutdown()
  }

  @Test("names the device that is lost, on all others, at once", arguments: Carriage.allCases)
  func lost(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 3)
    let channels = bench.open()
    for channel in channels { try await onThread { try channel.waitUntilOpen() } }
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
      try await onThread { try channels[from].send([1], JobTag(.share, step: 0), to: to) }
      _ = try await onThread { try channels[to].receive(JobTag(.share, step: 0), from: from) }
    }
    // The first waits for the second, which is well; the second learns of it from the first or by itself.
    async let first = failure { try channels[0].receive(JobTag(.forward, step: 1), from: 1) }
    async let second = failure { try channels[1].receive(JobTag(.forward, step: 1), from: 0) }
    await bench.devices[2].die()
    let ends = await [first, second]
    #expect(ends == [.lost(place: 2), .lost(place: 2)])
    await bench.shutdown()
  }

  @Test("ends in order: what was sent arrives, and nobody is lost", arguments: Carriage.allCases)
  func orderlyEnd(_ carriage: Carriage) async throws {
    let bench = try await TransferBench(carriage, devices: 3)
    let channels = bench.open()
    let message = pattern(3, 2 << 20)
    for from in 0..<3 {
      for to in 0..<3 where to != from {
        try await onThread { try channels[from].send(message, JobTag(.parameters, step: 0), to: to) }
      }
      channels[from].close()
      bench.devices[from].desk.closeChannel(.first)
    }
    for to in 0..<3 {
      for from in 0..<3 where to != from {
        #expect(
          try await onThread { try channels[to].receive(JobTag(.parameters, step: 0), from: from) } == message
        )
      }
      // Nothing follows, and that is told instead of waited for.
      let from = (to + 1) % 3
      let end = await failure { try channels[to].receive(JobTag(.parameters, step: 1), from: from) }
      #expect(end == .lost(place: from))
    }
    await bench.shutdown()
  }

  @Test("lets the next plan epoch begin beside the last one")
  func nextEpoch() async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    let first = bench.open()
    let stamp = JobStamp(job: JobStamp.first.job, term: 3, epoch: 5)
    let second = bench.open(stamp)
    let tag = JobTag(.share, step: 1)
    for (channels, bytes) in [(first, [UInt8(1)]), (second, [2])] {
      try await onThread { try channels[0].send(bytes, tag, to: 1) }
      #expect(try await onThread { try channels[1].receive(tag, from: 0) } == bytes)
    }
    first[0].abort("replaced by epoch 5")
    #expect(await failure { try first[1].receive(tag, from: 0) } == .aborted("replaced by epoch 5"))
    try await onThread { try second[1].send([3], tag, to: 0) }
    #expect(try await onThread { try second[0].receive(tag, from: 1) } == [3])
    await bench.shutdown()
  }

  @Test("drops and counts frames of another stamp, unknown kinds and impossible lengths")
  func wrongFrames() async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    let (sender, receiver) = bench.devices[0].id < bench.devices[1].id ? (0, 1) : (1, 0)
    let channels = bench.open()
    for channel in channels { try await onThread { try channel.waitUntilOpen() } }
    // A member that errs: beside its job's session it opens one of its own and says hello as it should.
    let session = await bench.devices[sender].rawSession(to: bench.devices[receiver])
    func send(_ body: [UInt8], number: UInt32) {
      bench.devices[sender].transport.perform([
        .send(session, MeshFrame(.bulk, channel: 1, request: number, body: body))
      ])
    }
    send(jobRecord(.first, kind: 0xF0), number: 0)
    let other = JobStamp(job: JobID(1, 2), term: 3, epoch: 3)
    send(jobRecord(other, kind: 1, length: 1, data: [9]), number: 1)
    send(jobRecord(.first, kind: 10, length: 1, data: [9]), number: 2)
    send(jobRecord(.first, kind: 1, length: 64 << 20 | 1, data: [9]), number: 3)
    send(jobRecord(.first, kind: 1, length: 10, offset: 5, data: [9]), number: 4)
    send(jobRecord(.first, kind: 1, length: 1, data: [9, 9]), number: 5)
    send([1, 2, 3], number: 6)
    send(jobRecord(.first, kind: 1, length: 2, data: [7, 8]), number: 7)
    let received = try await onThread {
      try channels[receiver].receive(JobTag(.forward, step: 0), from: sender)
    }
    #expect(received == [7, 8])
    let counters = bench.devices[receiver].transport.counters
    #expect(counters[.foreignJob] == 1)
    #expect(counters[.malformedJob] == 5)
    #expect(channels[receiver].failure == nil)
    await bench.shutdown()
  }

  @Test(
    "goes on without a device at an optional place, whatever becomes of it", arguments: Carriage.allCases,
    [false, true])
  func optionalPlace(_ carriage: Carriage, dies: Bool) async throws {
    let bench = try await TransferBench(carriage, devices: 3)
    let channels = bench.devices.map {
      $0.desk.openChannel(.first, roster: bench.roster, optional: [2])
    }
    for channel in channels { try await onThread { try channel.waitUntilOpen() } }
    let tag = JobTag(.state, step: 1)
    for other in 0..<2 {
      try await onThread { try channels[other].send([7], tag, to: 2) }
      #expect(try await onThread { try channels[2].receive(tag, from: other) } == [7])
    }
    async let waiting = failure { try channels[0].receive(tag, from: 2) }
    if dies { await bench.devices[2].die() } else { channels[2].abort("it does not want to") }
    #expect(await waiting == .lost(place: 2))
    #expect(await failure { try channels[1].receive(tag, from: 2) } == .lost(place: 2))
    #expect(await failure { try channels[1].send([1], tag, to: 2) } == .lost(place: 2))
    try await onThread { try channels[0].send([3], tag, to: 1) }
    #expect(try await onThread { try channels[1].receive(tag, from: 0) } == [3])
    #expect(channels[0].failure == nil && channels[1].failure == nil)
    await bench.shutdown()
  }

  @Test("turns sessions of an epoch away that has ended here")
  func endedEpoch() async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    let old = JobStamp(job: JobStamp.first.job, term: 3, epoch: 3)
    let (early, late) = bench.devices[0].id < bench.devices[1].id ? (0, 1) : (1, 0)
    _ = bench.devices[late].desk.openChannel(.first, roster: bench.roster)
    bench.devices[late].desk.closeChannel(.first)
    let channel = bench.devices[early].desk.openChannel(old, roster: bench.roster)
    async let sent = failure {
      while true { try channel.send([1], JobTag(.share, step: 0), to: late) }
    }
    #expect(await sent == .lost(place: late))
    #expect(bench.devices[late].transport.counters[.foreignJob] > 0)
    await bench.shutdown()
  }
}
