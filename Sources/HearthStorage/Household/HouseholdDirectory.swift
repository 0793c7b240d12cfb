package import CryptoPrimitives
package import HouseholdTrust
package import MeshModel
import Synchronization
import WireCoding

/// The household's state of this device on disk: identity, boot counter, log, known peers and invitations.
///
/// It lies in `household` inside the state directory, both of mode 0700. Every file is replaced whole and durably, and
/// `identity` is the last that is made and the first that is removed, so a crash at any moment leaves either a state
/// or none.
package final class HouseholdDirectory: Sendable {
  /// What an opened state may be used for.
  package enum Access: Sendable {
    /// Everything, by this process alone.
    case exclusive
    /// Only reading, maybe beside a process that has it alone.
    case reading
  }

  /// The directory's name in the state directory.
  package static let name = "household"

  /// The path of the directory.
  package let path: String
  private let files: any HouseholdFiles
  private let lock: HouseholdLock?
  /// Held from reading the invitations to writing them.
  private let invitesChange = Mutex(())

  private init(path: String, files: (any HouseholdFiles)?, lock: HouseholdLock?) {
    self.path = path
    self.files = files ?? DiskHouseholdFiles(directory: path)
    self.lock = lock
  }

  /// Opens the state of the household that this device belongs to.
  ///
  /// `machineID` are the bytes of /etc/machine-id; `files` is another place for writes, for tests.
  package static func open(
    stateDirectory: String, machineID: [UInt8], access: Access, files: (any HouseholdFiles)? = nil
  ) throws(HouseholdStorageFailure) -> HouseholdDirectory {
    let path = "\(stateDirectory)/\(name)"
    try StateExamination.check(directory: stateDirectory)
    try StateExamination.check(directory: path)
    guard StateExamination.exists("\(path)/\(HouseholdFile.identity.name)") else {
      throw .noHousehold(path: path)
    }
    let lock = access == .exclusive ? try HouseholdLock(directory: path) : nil
    let directory = HouseholdDirectory(path: path, files: files, lock: lock)
    if lock != nil { try directory.removeLeftovers() }
    guard try directory.identity().binding.matches(machineID: machineID) else {
      throw .otherMachine(path: path)
    }
    return directory
  }

  /// Writes the state of a household that this device has just created or joined, and opens it alone.
  package static func create(
    stateDirectory: String, household: Household, machineID: [UInt8], entropy: inout some EntropySource,
    files: (any HouseholdFiles)? = nil
  ) throws(HouseholdStorageFailure) -> HouseholdDirectory {
    let path = "\(stateDirectory)/\(name)"
    try StateExamination.check(directory: stateDirectory)
    try StateExamination.check(directory: path)
    try inHousehold { () throws(FileFailure) in try createDirectory(path, isPrivate: true) }
    try StateExamination.check(directory: stateDirectory)
    try StateExamination.check(directory: path)
    let directory = HouseholdDirectory(path: path, files: files, lock: try HouseholdLock(directory: path))
    guard !StateExamination.exists("\(path)/\(HouseholdFile.identity.name)") else {
      throw .alreadyThere(path: path)
    }
    try directory.removeLeftovers()
    // What an interrupted creation or an earlier household left behind belongs to nobody.
    for file in [HouseholdFile.peers, .invites] { try directory.remove(file) }
    try directory.store(household.log)
    try directory.write(.boot) { $0.integer(UInt32(0)) }
    let binding = MachineBinding(machineID: machineID, entropy: &entropy)
    try directory.writeIdentity(household, binding)
    try inHousehold { () throws(FileFailure) in
      try synchronizeDirectory(stateDirectory)
    }
    return directory
  }

  /// Reads the household as it was stored last.
  package func household() throws(HouseholdStorageFailure) -> Household {
    let identity = try identity()
    guard let keys = DeviceKeys(seed: identity.seed) else {
      throw damaged(.identity, "it holds no seed of \(DeviceKeys.seedByteCount) bytes")
    }
    let (genesis, entries) = try read(.log) { reader throws(DecodingFailure) in
      let welcome = try Welcome(from: &reader)
      return (welcome.genesis, welcome.entries)
    }
    var log = MembershipLog(genesis: genesis)
    let report = log.merge(entries)
    guard report.accepted.count == entries.count else {
      throw damaged(.log, "\(entries.count - report.accepted.count) of its entries do not belong in it")
    }
    guard let household = Household(stored: log, certificate: identity.certificate, keys: keys) else {
      throw damaged(.identity, "its keys, its certificate and the log do not belong together")
    }
    return household
  }

  /// Replaces the log; on the disk when this returns.
  package func store(_ log: MembershipLog) throws(HouseholdStorageFailure) {
    try write(.log) { Welcome(log).encode(to: &$0) }
  }

  /// Raises the boot counter and puts it on the disk, before anything may be sent.
  package func raiseBootCounter(
    entropy: inout some EntropySource
  ) throws(HouseholdStorageFailure) -> BootID {
    let last = try bootCounter()
    guard last < .max else { throw .bootCounterExhausted(path: filePath(.boot)) }
    try write(.boot) { $0.integer(last + 1) }
    return BootID(counter: last + 1, nonce: entropy.integer())
  }

  /// How often the daemon has started on this state.
  package func bootCounter() throws(HouseholdStorageFailure) -> UInt32 {
    try read(.boot) { reader throws(DecodingFailure) in try reader.integer("boot counter", as: UInt32.self) }
  }

  /// What was remembered of other devices, in ascending order; nothing when nothing was stored.
  package func knownPeers() throws(HouseholdStorageFailure) -> [KnownPeer] {
    guard StateExamination.exists(filePath(.peers)) else { return [] }
    return try read(.peers) { reader throws(DecodingFailure) in
      var peers: [KnownPeer] = []
      for _ in 0..<(try reader.count("known peers", limit: TrustLimits.devices)) {
        let peer = try KnownPeer(from: &reader)
        // Earlier builds kept a wire version here that nothing looked at.
        _ = try reader.integer("reserved byte", as: UInt8.self)
        if let last = peers.last, last.device >= peer.device { throw .notAscending(field: "known peers") }
        peers.append(peer)
      }
      return peers
    }
  }

  /// Replaces what is remembered of other devices; the first 256 devices, each once.
  package func store(_ peers: [KnownPeer]) throws(HouseholdStorageFailure) {
    var seen: Set<DeviceID> = []
    let kept = peers.filter { seen.insert($0.device).inserted }.sorted { $0.device < $1.device }
      .prefix(TrustLimits.devices)
    try write(.peers) { writer in
      writer.count(kept.count)
      for peer in kept {
        peer.encode(to: &writer)
        writer.integer(UInt8(0))
      }
    }
  }

  /// The open invitations and late failures; an empty book when nothing was stored.
  package func inviteBook() throws(HouseholdStorageFailure) -> InviteBook {
    guard StateExamination.exists(filePath(.invites)) else { return InviteBook() }
    return try read(.invites) { reader throws(DecodingFailure) in try InviteBook(from: &reader) }
  }

  /// Replaces the invitations and failures.
  package func store(_ book: InviteBook) throws(HouseholdStorageFailure) {
    try write(.invites) { book.encode(to: &$0) }
  }

  /// Changes the invitations and failures; one change after the other, whichever threads they come from.
  ///
  /// On the disk when this returns; what `change` throws leaves them as they were.
  package func updateInvites<Value: Sendable, Failure: Error>(
    _ change: (inout InviteBook) throws(Failure) -> Value
  ) throws -> Value {
    try invitesChange.withLock { _ in
      var book = try inviteBook()
      let value = try change(&book)
      try store(book)
      return value
    }
  }

  /// Removes the state of a device, also one that cannot be opened: a copy of another machine's, or damaged.
  package static func erase(stateDirectory: String) throws(HouseholdStorageFailure) {
    let path = "\(stateDirectory)/\(name)"
    try StateExamination.check(directory: stateDirectory)
    try StateExamination.check(directory: path)
    guard StateExamination.exists("\(path)/\(HouseholdFile.identity.name)") else {
      throw .noHousehold(path: path)
    }
    let directory = HouseholdDirectory(path: path, files: nil, lock: try HouseholdLock(directory: path))
    try directory.removeLeftovers()
    try directory.erase()
  }

  /// Removes the state, the keys first: this device belongs to no household any more.
  package func erase() throws(HouseholdStorageFailure) {
    for file in [HouseholdFile.identity, .invites, .boot, .peers, .log] { try remove(file) }
  }
}

extension HouseholdDirectory {
  /// What makes this device the one that it is.
  private struct Identity: ~Copyable {
    let seed: SecretBytes
    let binding: MachineBinding
    let certificate: DeviceCertificate
  }

  private func identity() throws(HouseholdStorageFailure) -> Identity {
    var seed: SecretBytes?
    let (binding, certificate) = try read(.identity) { reader throws(DecodingFailure) in
      let bytes = try reader.bytes("device seed", count: DeviceKeys.seedByteCount)
      seed = secretBytes(bytes)
      let binding = try MachineBinding(from: &reader)
      return (binding, try DeviceCertificate(from: &reader))
    }
    guard let seed = seed.take() else { throw damaged(.identity, "it holds no seed") }
    if seed.isTestOnly { throw .testOnlyKey(path: filePath(.identity)) }
    return Identity(seed: seed, binding: binding, certificate: certificate)
  }

  private func writeIdentity(
    _ household: Household, _ binding: MachineBinding
  ) throws(HouseholdStorageFailure) {
    let seed = household.keys.seedCopy()
    if seed.isTestOnly { throw .testOnlyKey(path: filePath(.identity)) }
    try write(.identity) { writer in
      seed.withUnsafeBytes { writer.raw($0) }
      binding.encode(to: &writer)
      household.certificate.encode(to: &writer)
    }
  }

  private func filePath(_ file: HouseholdFile) -> String { "\(path)/\(file.name)" }

  private func damaged(_ file: HouseholdFile, _ reason: String) -> HouseholdStorageFailure {
    .damaged(path: filePath(file), reason: reason)
  }

  /// Replaces a file; what was in memory for it is wiped, since it may be secret.
  private func write(
    _ file: HouseholdFile, _ body: (inout ByteWriter) -> Void
  ) throws(HouseholdStorageFailure) {
    guard lock != nil else { throw .readingOnly(path: path) }
    // Room for all that is secret, so that no part of it stays in memory that the array has outgrown.
    var writer = ByteWriter(reserving: 32 << 10)
    body(&writer)
    var payload = writer.bytes
    writer = ByteWriter()
    var bytes = file.bytes(payload: payload)
    defer {
      wipe(&payload)
      wipe(&bytes)
    }
    try inHousehold { () throws(FileFailure) in try files.replace(file.name, with: bytes) }
  }

  /// Removes the hidden files of writes that a crash interrupted; one of them may hold a key.
  private func removeLeftovers() throws(HouseholdStorageFailure) {
    try inHousehold { () throws(FileFailure) in
      for name in try directoryNames(path)
      where name.hasPrefix(".") && name.hasSuffix(AtomicFile.temporarySuffix) {
        try removeFile("\(path)/\(name)")
      }
    }
  }

  private func remove(_ file: HouseholdFile) throws(HouseholdStorageFailure) {
    guard lock != nil else { throw .readingOnly(path: path) }
    try inHousehold { () throws(FileFailure) in try files.remove(file.name) }
  }

  private func read<Value>(
    _ file: HouseholdFile, _ body: (inout ByteReader) throws(DecodingFailure) -> Value
  ) throws(HouseholdStorageFailure) -> Value {
    let path = filePath(file)
    try StateExamination.check(file: path)
    guard StateExamination.exists(path) else { throw .damaged(path: path, reason: "it is missing") }
    var bytes = try inHousehold { () throws(FileFailure) in
      try readWholeFile(path, limit: file.byteLimit)
    }
    defer { wipe(&bytes) }
    let range = try file.payload(of: bytes, path: path)
    do throws(DecodingFailure) {
      var reader = ByteReader(bytes[range])
      let value = try body(&reader)
      try reader.finish()
      return value
    } catch {
      throw .damaged(path: path, reason: error.description)
    }
  }
}
