import CryptoPrimitives
package import MeshModel
package import WireCoding

/// What devices say to each other about one job, in frames of the kind `job` on their control sessions.
///
/// On the wire: the stamp (28 bytes), kind u8, and what belongs to the kind. Every message may be lost or repeated.
package struct JobMessage: Hashable, Sendable, WireCodable {
  /// What is said.
  package enum Body: Hashable, Sendable {
    /// A device that takes part tells of the job.
    case offer(JobSpecification)
    /// What a device measured of itself, for the leader.
    case report([UInt8])
    /// A device cannot take part, and why.
    case decline(String)
    /// A step of the agreement on a plan.
    case decree(DecreeMessage)
    /// The plan that was agreed on.
    case certificate(PlanCertificate)
    /// Where the sender is.
    case progress(DeviceProgress)
    /// The sender's part is done.
    case completed(RunCompletion)
    /// The job has ended.
    case ended(JobOutcome)
    /// The sender knows no such job.
    case unknown
    /// The sender leads and lacks the receiver's report.
    case reportWanted
    /// These devices could take part and are not used, and why.
    case notUsed([DeviceID], reason: String)
    /// An admin has begun a new term.
    case adopted(JobAdoption)
    /// The leader's links, for those that may lead after it.
    case links([DeviceLink])
  }

  /// The job, its term, and the plan epoch that the sender is in; for a decree the one that is decided on.
  package var stamp: JobStamp
  /// What is said.
  package var body: Body

  /// A message.
  package init(_ stamp: JobStamp, _ body: Body) {
    self.stamp = stamp
    self.body = body
  }

  /// Reads a message of at most `JobLimits.messageBytes`.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    guard reader.remaining <= JobLimits.messageBytes else {
      throw .overLimit(
        field: "job message", value: UInt64(reader.remaining), limit: JobLimits.messageBytes)
    }
    stamp = try JobStamp(from: &reader)
    let kind = try reader.integer("job message", as: UInt8.self)
    switch kind {
    case 1:
      let specification = try JobSpecification(from: &reader)
      guard specification.id == stamp.job, specification.term == stamp.term else {
        throw .invalid(field: "stamp of an offer", value: UInt64(stamp.term))
      }
      body = .offer(specification)
    case 2: body = .report(Array(try reader.lengthPrefixed("report", limit: JobLimits.reportBytes)))
    case 3: body = .decline(try reader.text("reason", limit: JobLimits.reasonBytes))
    case 4: body = .decree(try Self.readDecree(&reader))
    case 5: body = .certificate(try PlanCertificate(from: &reader))
    case 6: body = .progress(try DeviceProgress(from: &reader))
    case 7: body = .completed(try RunCompletion(from: &reader))
    case 8: body = .ended(try JobOutcome(from: &reader))
    case 9: body = .unknown
    case 10: body = .reportWanted
    case 11:
      body = .notUsed(
        try readDevices(&reader, "devices that are not used", limit: JobLimits.roster),
        reason: try reader.text("reason", limit: JobLimits.reasonBytes))
    case 12: body = .adopted(try JobAdoption(from: &reader))
    case 13: body = .links(try Self.readLinks(&reader))
    default: throw .invalid(field: "job message", value: UInt64(kind))
    }
  }

  /// Writes the message.
  package func encode(to writer: inout ByteWriter) {
    stamp.encode(to: &writer)
    switch body {
    case .offer(let specification):
      writer.integer(UInt8(1))
      specification.encode(to: &writer)
    case .report(let report):
      writer.integer(UInt8(2))
      writer.lengthPrefixed(report)
    case .decline(let reason):
      writer.integer(UInt8(3))
      writer.text(cut(reason, to: JobLimits.reasonBytes))
    case .decree(let message):
      writer.integer(UInt8(4))
      Self.write(message, to: &writer)
    case .certificate(let certificate):
      writer.integer(UInt8(5))
      certificate.encode(to: &writer)
    case .progress(let progress):
      writer.integer(UInt8(6))
      progress.encode(to: &writer)
    case .completed(let completion):
      writer.integer(UInt8(7))
      completion.encode(to: &writer)
    case .ended(let outcome):
      writer.integer(UInt8(8))
      outcome.encode(to: &writer)
    case .unknown: writer.integer(UInt8(9))
    case .reportWanted: writer.integer(UInt8(10))
    case .notUsed(let devices, let reason):
      writer.integer(UInt8(11))
      writer.count(devices.count)
      for device in devices { device.encode(to: &writer) }
      writer.text(cut(reason, to: JobLimits.reasonBytes))
    case .adopted(let adoption):
      writer.integer(UInt8(12))
      adoption.encode(to: &writer)
    case .links(let links):
      writer.integer(UInt8(13))
      writer.count(links.count)
      for link in links { link.encode(to: &writer) }
    }
  }

  /// Links ascend by their device, so that none is named twice.
  private static func readLinks(_ reader: inout ByteReader) throws(DecodingFailure) -> [DeviceLink] {
    var links: [DeviceLink] = []
    for _ in 0..<(try reader.count("links", limit: JobLimits.roster)) {
      let link = try DeviceLink(from: &reader)
      if let last = links.last, last.device >= link.device {
        throw .invalid(field: "link out of order", value: UInt64(links.count))
      }
      links.append(link)
    }
    return links
  }

  private static func readDecree(_ reader: inout ByteReader) throws(DecodingFailure) -> DecreeMessage {
    let kind = try reader.integer("decree message", as: UInt8.self)
    let ballot = try Ballot(from: &reader)
    switch kind {
    case 1: return .prepare(ballot)
    case 2:
      return .promise(
        ballot, accepted: try reader.flag("accepted") ? try AcceptedProposal(from: &reader) : nil)
    case 3: return .refused(ballot, promised: try Ballot(from: &reader))
    case 4: return .accept(ballot, try PlanProposal(from: &reader))
    case 5: return .accepted(ballot, try readSignature(&reader, "vote"))
    default: throw .invalid(field: "decree message", value: UInt64(kind))
    }
  }

  private static func write(_ message: DecreeMessage, to writer: inout ByteWriter) {
    switch message {
    case .prepare(let ballot):
      writer.integer(UInt8(1))
      ballot.encode(to: &writer)
    case .promise(let ballot, let accepted):
      writer.integer(UInt8(2))
      ballot.encode(to: &writer)
      writer.flag(accepted != nil)
      accepted?.encode(to: &writer)
    case .refused(let ballot, let promised):
      writer.integer(UInt8(3))
      ballot.encode(to: &writer)
      promised.encode(to: &writer)
    case .accept(let ballot, let proposal):
      writer.integer(UInt8(4))
      ballot.encode(to: &writer)
      proposal.encode(to: &writer)
    case .accepted(let ballot, let signature):
      writer.integer(UInt8(5))
      ballot.encode(to: &writer)
      writer.raw(signature.bytes)
    }
  }
}
