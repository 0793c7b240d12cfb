package import CryptoPrimitives
import MeshModel
package import WireCoding

/// How far a device is in a job, as it was on its disk last; its run may have been further.
package struct JobLedger: Hashable, Sendable, WireCodable {
  /// The plan epoch under which the last step was committed here; 0 before the first.
  package var epoch: UInt64
  /// Committed optimizer steps.
  package var committedStep: UInt64
  /// Digest of the parameters after that step; nil when it is not known.
  package var parameters: ContentDigest?

  /// The ledger of a job that has committed nothing.
  package init() {
    epoch = 0
    committedStep = 0
  }

  /// Reads a ledger.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    epoch = try reader.integer("plan epoch")
    committedStep = try reader.integer("committed step")
    if try reader.flag("parameters") { parameters = try readDigest(&reader, "parameters") }
  }

  /// Writes the ledger.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(epoch)
    writer.integer(committedStep)
    writer.flag(parameters != nil)
    if let parameters { writer.raw(parameters.bytes) }
  }
}

/// What a device must remember of a job across a restart.
package struct StoredJob: Hashable, Sendable, WireCodable {
  private static let magic: [UInt8] = Array("HEARTHJOB".utf8)
  private static let version: UInt8 = 3

  /// The job.
  package var specification: JobSpecification
  /// The last plan that was agreed on; nil before the first.
  package var certificate: PlanCertificate?
  /// This device's part in the decision on the plan after `certificate`; begun anew with each certificate and term.
  package var decree: DecreeRecord
  /// How far the job is.
  package var ledger: JobLedger
  /// What this device's run gave; nil until it has come to its end here.
  package var completion: RunCompletion?
  /// How the job ended; nil while it goes on.
  package var outcome: JobOutcome?

  /// The record of a job that has just become known.
  package init(_ specification: JobSpecification) {
    self.specification = specification
    decree = DecreeRecord()
    ledger = JobLedger()
  }

  /// Reads a record; certificate and ledger are of the job.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    guard try Array(reader.bytes("job record", count: Self.magic.count)) == Self.magic else {
      throw .invalid(field: "job record", value: 0)
    }
    let version = try reader.integer("version of a job record", as: UInt8.self)
    guard version == Self.version else {
      throw .invalid(field: "version of a job record", value: UInt64(version))
    }
    specification = try JobSpecification(from: &reader)
    if try reader.flag("certificate") {
      let certificate = try PlanCertificate(from: &reader)
      guard certificate.stamp.job == specification.id else {
        throw .invalid(field: "certificate of another job", value: certificate.stamp.epoch)
      }
      self.certificate = certificate
    }
    decree = try DecreeRecord(from: &reader)
    ledger = try JobLedger(from: &reader)
    if try reader.flag("completion") { completion = try RunCompletion(from: &reader) }
    if try reader.flag("outcome") { outcome = try JobOutcome(from: &reader) }
  }

  /// Writes the record.
  package func encode(to writer: inout ByteWriter) {
    writer.raw(Self.magic)
    writer.integer(Self.version)
    specification.encode(to: &writer)
    writer.flag(certificate != nil)
    certificate?.encode(to: &writer)
    decree.encode(to: &writer)
    ledger.encode(to: &writer)
    writer.flag(completion != nil)
    completion?.encode(to: &writer)
    writer.flag(outcome != nil)
    outcome?.encode(to: &writer)
  }
}

extension StoredJob {
  /// The newest plan, and the term: what this device's messages are stamped with.
  package var position: JobStamp {
    if let certificate, certificate.stamp.term == specification.term { return certificate.stamp }
    return specification.stamp(epoch: specification.adoption?.stamp.epoch ?? 0)
  }

  /// Who decides on the next plan.
  package var roster: DecreeRoster {
    let owner = specification.owner
    if let certificate, certificate.stamp.term == specification.term {
      return DecreeRoster(certificate.proposal.voters(owner: owner), owner: owner)
    }
    return DecreeRoster(specification.adoption?.roster ?? specification.roster, owner: owner)
  }

  /// This device's part in the decision on the next plan, with what it remembers of it.
  func nextDecree(own: DeviceID) -> EpochDecree {
    var stamp = position
    stamp.epoch += 1
    return EpochDecree(own: own, stamp: stamp, roster: roster, record: decree)
  }
}
