import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination
import WireCoding

@Suite struct JobMessageTests {
  private static let specification = JobFixture.specification(3)
  private static let roster = DecreeRoster(specification.roster, owner: specification.owner)
  private static let proposal = PlanProposal(
    stamp: specification.stamp(epoch: 1), household: specification.roster, plan: JobFixture.plan(3),
    witnesses: [JobFixture.ids[7], JobFixture.ids[6]])
  private static let ballot = Ballot(round: 5, proposer: JobFixture.ids[1])

  private static let adoption = JobAdoption(
    JobStamp(job: JobID(1, 2), term: 0, epoch: 3), roster: [JobFixture.ids[1], JobFixture.ids[0]],
    keys: JobFixture.devices[1])
  private static var adopted: JobSpecification {
    var adopted = specification
    adopted.adoption = adoption
    return adopted
  }

  private static var progress: DeviceProgress {
    var progress = DeviceProgress(.cached)
    progress.epoch = 2
    progress.step = 17
    progress.steps = 40
    progress.samplesPerSecond = 12.5
    progress.loss = 0.25
    progress.memoryBytes = 1 << 33
    progress.links = [LinkBytes(place: 0, sent: 5, received: 6), LinkBytes(place: 2, sent: 7, received: 8)]
    progress.finished = FinishedEpoch(
      index: 1, isCached: false, seconds: 2.5, samplesPerSecond: 12, loss: 0.5)
    progress.transition = TransitionFigures(seconds: 0.5, residentBefore: 1 << 30, residentAfter: 1 << 28)
    progress.metrics = [NamedMetric(name: "accuracy", value: 0.75)]
    progress.committedStep = 57
    progress.secondsPerStep = 0.125
    progress.reason = "its battery is low"
    progress.culprit = JobFixture.ids[4]
    (progress.isLeaving, progress.hasLearned, progress.isPrepared) = (true, false, true)
    return progress
  }

  /// One message of each kind.
  static let bodies: [JobMessage.Body] = [
    .offer(specification), .report([1, 2, 3]), .decline("the disk has 3 GB free; 12 GB are needed"),
    .decree(.prepare(ballot)), .decree(.promise(ballot, accepted: nil)),
    .decree(.promise(ballot, accepted: AcceptedProposal(ballot: ballot, proposal: proposal))),
    .decree(.refused(ballot, promised: Ballot(round: 6, proposer: JobFixture.ids[0]))),
    .decree(.accept(ballot, proposal)),
    .decree(.accepted(ballot, JobFixture.devices[0].signing.sign([1]))),
    .certificate(JobFixture.certificate(proposal, roster: roster, voters: Array(JobFixture.ids[0..<2]))),
    .progress(progress), .completed(RunCompletion(digest: nil, result: nil, results: [])),
    .completed(
      RunCompletion(
        digest: JobFixture.digest(9), result: BlobReference(digest: JobFixture.digest(8), byteCount: 77),
        results: [5, 6])),
    .ended(.finished(adapter: JobFixture.digest(4), results: [1])),
    .ended(.failed(device: JobFixture.ids[2], reason: "its disk is full")),
    .ended(.failed(device: nil, reason: "")), .ended(.stopped(by: JobFixture.ids[0])), .unknown,
    .reportWanted, .notUsed([JobFixture.ids[2], JobFixture.ids[5]], reason: "it would not pay"),
    .adopted(adoption), .offer(adopted), .links([]),
    .links(JobFixture.ids[0...2].map { DeviceLink(to: $0, bytesPerSecond: 5, roundTrip: .milliseconds(7)) }),
  ]

  @Test("A message is job, term, epoch, kind and its fields, little-endian")
  func layout() {
    let stamp = JobStamp(job: JobID(1, 2), term: 3, epoch: 4)
    let head: [UInt8] = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]
    #expect(JobMessage(stamp, .unknown).encoded == head + [9])
    #expect(JobMessage(stamp, .report([7, 8])).encoded == head + [2, 2, 0, 7, 8])
    #expect(JobMessage(stamp, .decline("no")).encoded == head + [3, 2, 0, 0x6E, 0x6F])
    #expect(
      JobMessage(stamp, .decree(.prepare(Self.ballot))).encoded
        == head + [4, 1, 5, 0, 0, 0] + JobFixture.ids[1].bytes)
  }

  @Test("Messages of every kind read back", arguments: bodies)
  func roundTrip(_ body: JobMessage.Body) throws {
    let message = JobMessage(Self.specification.stamp(epoch: 1), body)
    #expect(try JobMessage(decoding: message.encoded) == message)
    #expect(message.encoded.count <= JobLimits.messageBytes)
    for count in message.encoded.indices {
      #expect(throws: DecodingFailure.self) { _ = try JobMessage(decoding: message.encoded.prefix(count)) }
    }
  }

  @Test("Links that are named twice, carry nothing, or take over a minute there and back, are refused")
  func links() throws {
    let stamp = Self.specification.stamp(epoch: 1)
    let link = DeviceLink(to: JobFixture.ids[0], bytesPerSecond: 0x0102, roundTrip: .nanoseconds(3))
    let bytes = JobMessage(stamp, .links([link])).encoded
    #expect(
      Array(bytes.dropFirst(29)) == [1, 0] + link.device.bytes + [
        2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
      ])
    #expect(throws: DecodingFailure.invalid(field: "link out of order", value: 1)) {
      _ = try JobMessage(decoding: JobMessage(stamp, .links([link, link])).encoded)
    }
    let idle = bytes.dropLast(16) + [UInt8](repeating: 0, count: 16)
    #expect(throws: DecodingFailure.invalid(field: "bytes a second of a link", value: 0)) {
      _ = try JobMessage(decoding: idle)
    }
    let far = bytes.dropLast(8) + [1, 0x58, 0x47, 0xF8, 0x0D, 0, 0, 0]
    #expect(throws: DecodingFailure.invalid(field: "round trip of a link", value: 60_000_000_001)) {
      _ = try JobMessage(decoding: far)
    }
  }

  @Test("What is over its limit is refused by its name")
  func limits() {
    var writer = ByteWriter()
    Self.specification.stamp(epoch: 0).encode(to: &writer)
    writer.integer(UInt8(2))
    writer.lengthPrefixed([UInt8](repeating: 0, count: JobLimits.reportBytes + 1))
    #expect(
      throws: DecodingFailure.overLimit(
        field: "report", value: UInt64(JobLimits.reportBytes + 1), limit: JobLimits.reportBytes)
    ) { _ = try JobMessage(decoding: writer.bytes) }
    let long = [UInt8](repeating: 0, count: JobLimits.messageBytes + 1)
    #expect(
      throws: DecodingFailure.overLimit(
        field: "job message", value: UInt64(long.count), limit: JobLimits.messageBytes)
    ) { _ = try JobMessage(decoding: long) }
  }

  @Test("A witness that has a place, or is named twice, is refused")
  func witnesses() {
    let proposal = JobFixture.proposal(Self.specification.roster)
    let (idle, busy) = (JobFixture.ids[7], Self.specification.roster[2])
    for (named, failure) in [
      ([busy], DecodingFailure.invalid(field: "witness with a place", value: 0)),
      ([idle, idle], .notAscending(field: "witnesses")),
    ] {
      // Without witnesses its last byte or bytes are their number.
      var writer = ByteWriter()
      writer.count(0)
      let countBytes = writer.bytes.count
      writer = ByteWriter()
      writer.raw(Array(proposal.encoded.dropLast(countBytes)))
      writer.count(named.count)
      for device in named { device.encode(to: &writer) }
      #expect(throws: failure) { _ = try PlanProposal(decoding: writer.bytes) }
    }
  }

  @Test("An offer whose stamp is of another job is refused")
  func foreignOffer() {
    let stamp = JobStamp(job: JobID(9, 9), term: 0, epoch: 0)
    #expect(throws: DecodingFailure.self) {
      _ = try JobMessage(decoding: JobMessage(stamp, .offer(Self.specification)).encoded)
    }
  }

  @Test("An adoption holds with the signature of an admin over all that it says, and with nothing else")
  func adoptions() throws {
    let stamp = JobStamp(job: JobID(1, 2), term: 1 << 16, epoch: 3)
    let roster = [JobFixture.ids[2], JobFixture.ids[0]]
    let adoption = JobAdoption(stamp, roster: roster, keys: JobFixture.devices[1])
    let admin = JobFixture.ids[1]
    #expect(adoption.roster == roster.sorted() && adoption.admin == admin)
    #expect(adoption.isSigned(admins: [admin]) { JobFixture.key($0) })
    #expect(!adoption.isSigned(admins: [JobFixture.ids[0]]) { JobFixture.key($0) })
    #expect(!adoption.isSigned(admins: [admin]) { _ in nil })
    // Term, epoch and roster: job 16, term 4, epoch 8, count 2, devices.
    for offset in [16, 20, 30, 46] {
      var bytes = adoption.encoded
      bytes[offset] ^= 1
      guard let changed = try? JobAdoption(decoding: bytes) else { continue }
      #expect(!changed.isSigned(admins: [admin]) { JobFixture.key($0) }, "byte \(offset)")
    }
  }

  @Test("Terms of different admins differ, and each is higher than the one before")
  func terms() {
    let (one, other) = (JobFixture.ids[0], JobFixture.ids[1])
    let first = JobAdoption.term(after: 0, by: one)
    #expect(first >> 16 == 1 && first != JobAdoption.term(after: 0, by: other))
    #expect(JobAdoption.term(after: first, by: other) > first)
    #expect(JobAdoption.term(after: JobAdoption.term(after: first, by: other), by: one) >> 16 == 3)
  }

  @Test("Reasons are cut at a character, numbers that are none are not sent")
  func cleaning() throws {
    let reason = String(repeating: "ä", count: 400)
    let message = JobMessage(
      Self.specification.stamp(epoch: 0), .ended(.failed(device: nil, reason: reason)))
    #expect(
      try JobMessage(decoding: message.encoded).body
        == .ended(.failed(device: nil, reason: String(repeating: "ä", count: 256))))
    var progress = DeviceProgress(.live)
    progress.loss = .nan
    progress.samplesPerSecond = .infinity
    progress.metrics = [NamedMetric(name: "f1", value: .nan)]
    #expect(try DeviceProgress(decoding: progress.encoded) == DeviceProgress(.live))
  }

  @Test("Bytes with random changes are a message that encodes to them, or refused")
  func fuzz() {
    var generator = SeededGenerator(seed: 11)
    let originals = Self.bodies.map { JobMessage(Self.specification.stamp(epoch: 1), $0).encoded }
    var messages = 0
    for round in 0..<20_000 {
      var bytes = originals[round % originals.count]
      for _ in 0...generator.uniform(below: 3) {
        bytes[generator.uniform(below: bytes.count)] = UInt8(truncatingIfNeeded: generator.next())
      }
      if generator.uniform(below: 4) == 0 { bytes.removeLast(generator.uniform(below: bytes.count)) }
      guard let decoded = try? JobMessage(decoding: bytes) else { continue }
      messages += 1
      #expect(decoded.encoded == bytes)
    }
    #expect(messages > 2_000)
  }

  @Test("A record reads back with certificate, votes, ledger and end")
  func record() throws {
    var record = StoredJob(Self.specification)
    #expect(try StoredJob(decoding: record.encoded) == record)
    record.certificate = JobFixture.certificate(
      Self.proposal, roster: Self.roster, voters: Self.specification.roster)
    record.decree.round = 3
    record.decree.promised = Self.ballot
    record.decree.accepted = AcceptedProposal(ballot: Self.ballot, proposal: Self.proposal)
    record.ledger.committedStep = 12
    record.ledger.parameters = JobFixture.digest(1)
    record.completion = RunCompletion(digest: JobFixture.digest(2), result: nil, results: [3])
    record.outcome = .stopped(by: JobFixture.ids[0])
    #expect(try StoredJob(decoding: record.encoded) == record)
    var other = record.encoded
    other[9] = 1
    #expect(throws: DecodingFailure.invalid(field: "version of a job record", value: 1)) {
      _ = try StoredJob(decoding: other)
    }
  }
}
