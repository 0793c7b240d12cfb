package import CryptoPrimitives
package import MeshModel
package import WireCoding

/// Names some content and says how long it is, so that a device knows what it asks for.
package struct BlobReference: Hashable, Sendable, WireCodable {
  /// The content's digest.
  package var digest: ContentDigest
  /// The content's bytes.
  package var byteCount: UInt64

  /// A reference.
  package init(digest: ContentDigest, byteCount: UInt64) {
    self.digest = digest
    self.byteCount = byteCount
  }

  /// Reads 40 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    digest = try readDigest(&reader, "blob")
    byteCount = try reader.integer("bytes of a blob")
  }

  /// Writes the digest and the length.
  package func encode(to writer: inout ByteWriter) {
    writer.raw(digest.bytes)
    writer.integer(byteCount)
  }
}

/// A job as its owner offers it to the household.
package struct JobSpecification: Hashable, Sendable, WireCodable {
  /// The job.
  package var id: JobID
  /// An admin's word that the job goes on without its majority; nil as long as nobody had to say so.
  package var adoption: JobAdoption?
  /// The device that has the data and gets the adapter.
  package var owner: DeviceID
  /// What people call the job.
  package var name: String
  /// Identity of the model's weights.
  package var model: ContentDigest
  /// The list of the model's files, from which a device fetches what its layers need.
  package var modelFiles: BlobReference
  /// Settings and samples.
  package var package: BlobReference
  /// The devices that decide on the first plan: the members that were in when the job was submitted, ascending.
  package var roster: [DeviceID]
  /// Who plans while it is there: whom gossip suggested when the job was submitted.
  package var leader: DeviceID
  /// Passes over the training samples, for people: what is planned is in the package.
  package var epochs: Int

  /// A job; the roster is put in order.
  package init(
    id: JobID, owner: DeviceID, name: String, model: ContentDigest,
    modelFiles: BlobReference, package: BlobReference, roster: [DeviceID], leader: DeviceID,
    epochs: Int
  ) {
    precondition(
      roster.contains(owner) && roster.contains(leader) && roster.count <= JobLimits.roster,
      "a roster of \(roster.count) devices has the owner and the leader and at most \(JobLimits.roster)")
    precondition(name.utf8.count <= JobLimits.nameBytes, "a name of \(name.utf8.count) bytes")
    precondition(1...JobLimits.epochs ~= epochs, "\(epochs) epochs")
    self.id = id
    self.owner = owner
    self.name = name
    self.model = model
    self.modelFiles = modelFiles
    self.package = package
    self.roster = Set(roster).sorted()
    self.leader = leader
    self.epochs = epochs
  }

  /// Raised only when an admin adopts a job that lost its majority.
  package var term: UInt32 { adoption?.stamp.term ?? 0 }

  /// Fences what devices say of this job under a plan; plan epoch 0 is before the first plan.
  package func stamp(epoch: UInt64) -> JobStamp { JobStamp(job: id, term: term, epoch: epoch) }

  /// Reads a specification; owner and leader are of the roster.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    id = try JobID(from: &reader)
    if try reader.flag("adoption") {
      let adoption = try JobAdoption(from: &reader)
      guard adoption.stamp.job == id else {
        throw .invalid(field: "adoption of another job", value: adoption.stamp.epoch)
      }
      self.adoption = adoption
    }
    owner = try DeviceID(from: &reader)
    name = try reader.text("name of a job", limit: JobLimits.nameBytes)
    model = try readDigest(&reader, "model")
    modelFiles = try BlobReference(from: &reader)
    package = try BlobReference(from: &reader)
    roster = try readDevices(&reader, "roster", limit: JobLimits.roster)
    leader = try DeviceID(from: &reader)
    guard roster.contains(owner), roster.contains(leader) else {
      throw .invalid(field: "roster without owner or leader", value: UInt64(roster.count))
    }
    epochs = try readCount(&reader, "epochs", limit: JobLimits.epochs)
  }

  /// Writes the specification.
  package func encode(to writer: inout ByteWriter) {
    id.encode(to: &writer)
    writer.flag(adoption != nil)
    adoption?.encode(to: &writer)
    owner.encode(to: &writer)
    writer.text(name)
    writer.raw(model.bytes)
    modelFiles.encode(to: &writer)
    package.encode(to: &writer)
    writer.count(roster.count)
    for device in roster { device.encode(to: &writer) }
    leader.encode(to: &writer)
    writer.integer(UInt32(epochs))
  }
}

// MARK: - Fields that several messages have

func readDigest(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> ContentDigest {
  let bytes = try reader.bytes(field, count: ContentDigest.byteCount)
  guard let digest = ContentDigest(bytes: bytes) else {
    preconditionFailure("a digest of \(bytes.count) bytes")
  }
  return digest
}

/// Devices in ascending order, each once.
func readDevices(
  _ reader: inout ByteReader, _ field: StaticString, limit: Int
) throws(DecodingFailure) -> [DeviceID] {
  var devices: [DeviceID] = []
  for _ in 0..<(try reader.count(field, limit: limit)) {
    let device = try DeviceID(from: &reader)
    if let last = devices.last, last >= device { throw .notAscending(field: "\(field)") }
    devices.append(device)
  }
  return devices
}

/// A 32-bit count from 1 on.
func readCount(
  _ reader: inout ByteReader, _ field: StaticString, limit: Int
) throws(DecodingFailure) -> Int {
  let value = try reader.integer(field, as: UInt32.self)
  guard value > 0 else { throw .invalid(field: "\(field)", value: 0) }
  guard value <= limit else { throw .overLimit(field: "\(field)", value: UInt64(value), limit: limit) }
  return Int(value)
}

/// A number that is neither infinite nor none.
func readNumber(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> Double {
  let bits = try reader.integer(field, as: UInt64.self)
  let value = Double(bitPattern: bits)
  guard value.isFinite else { throw .invalid(field: "\(field)", value: bits) }
  return value
}

func readSignature(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> Signature {
  let bytes = try reader.bytes(field, count: Signature.byteCount)
  guard let signature = Signature(bytes: bytes) else {
    preconditionFailure("a signature of \(bytes.count) bytes")
  }
  return signature
}
