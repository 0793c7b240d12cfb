import Synchronization

/// A directory in memory that behaves like a disk with faults: it fills up, loses power in the middle of a
/// write, forgets what was not synchronised, and flips bits.
///
/// Everything above the storage protocol is driven over it by seeded tests.
package final class SimulatedStorage: ShardStorage {
  /// What to call the place in an error.
  package let name: String
  private let disk: Mutex<SimulatedDisk>

  /// An empty disk for `capacity` bytes.
  package init(name: String = "simulated", capacity: Int = .max) {
    self.name = name
    disk = Mutex(SimulatedDisk(capacity: capacity))
  }

  /// Bytes that all files together may have.
  package var capacity: Int {
    get { disk.withLock { $0.capacity } }
    set { disk.withLock { $0.capacity = newValue } }
  }

  /// Whether files refuse to be synchronised, like a disk with a write error that shows late.
  package var refusesSynchronization: Bool {
    get { disk.withLock { $0.refusesSynchronization } }
    set { disk.withLock { $0.refusesSynchronization = newValue } }
  }

  /// Bytes that all files together have.
  package var used: Int { disk.withLock { $0.used } }

  /// Cuts the power once `bytes` more bytes were written: that write is torn there, and whatever follows fails
  /// until `crash` is called.
  package func cutPower(afterWriting bytes: Int) { disk.withLock { $0.writesUntilPowerCut = bytes } }

  /// Whether the power is cut.
  package var isPowerCut: Bool { disk.withLock { $0.writesUntilPowerCut == 0 } }

  /// Loses what was not synchronised, except the sectors and names for which `keeps` answers yes, and starts
  /// again with the power on and no lock.
  ///
  /// Files that are open become unusable, as after a restart.
  package func crash(keeping keeps: () -> Bool) {
    disk.withLock { $0.crash(keeping: keeps) }
  }

  /// Flips one bit of a file, on the disk as in memory.
  package func flipBit(_ bit: Int, of file: String) {
    disk.withLock { disk in
      precondition(disk.files[file].map { bit < $0.bytes.count * 8 } ?? false, "bit \(bit) of \(file)")
      disk.files[file]?.bytes[bit / 8] ^= 1 << (bit % 8)
      if bit / 8 < disk.files[file]?.durable.count ?? 0 {
        disk.files[file]?.durable[bit / 8] ^= 1 << (bit % 8)
      }
    }
  }

  /// Sets a file's bytes, on the disk as in memory.
  package func setContents(_ bytes: [UInt8], of file: String) {
    disk.withLock { $0.files[file] = SimulatedDisk.File(bytes: bytes, durable: bytes, isNameDurable: true) }
  }

  /// Takes the sole use of the files.
  package func lock() throws(ShardStorageFailure) {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      if disk.isLocked { throw .locked(reason: "'\(name)' is in use") }
      disk.isLocked = true
    }
  }

  /// Gives the sole use back.
  package func unlock() { disk.withLock { $0.isLocked = false } }

  /// The names of all files, sorted.
  package func names() throws(ShardStorageFailure) -> [String] {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      try disk.checkPower()
      return disk.files.keys.sorted()
    }
  }

  /// Opens a file, made empty when it is missing.
  package func open(_ file: String) throws(ShardStorageFailure) -> any ShardFile {
    let generation = try disk.withLock { (disk) throws(ShardStorageFailure) -> Int in
      try disk.checkPower()
      if disk.files[file] == nil { disk.files[file] = SimulatedDisk.File() }
      return disk.generation
    }
    return SimulatedFile(self, file, generation)
  }

  /// The whole content of a file, or nil when there is none.
  package func contents(_ file: String, limit: Int) throws(ShardStorageFailure) -> [UInt8]? {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      try disk.checkPower()
      guard let bytes = disk.files[file]?.bytes else { return nil }
      guard bytes.count <= limit else {
        throw .inputOutput(reason: "'\(file)' has \(bytes.count) bytes, the limit is \(limit)")
      }
      return bytes
    }
  }

  /// Puts a file in place whole, or leaves the old one.
  package func replace(_ file: String, with bytes: [UInt8]) throws(ShardStorageFailure) {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      let spent = try disk.spend(bytes.count, growth: bytes.count)
      guard spent == bytes.count else { throw disk.refusal }
      disk.files[file] = SimulatedDisk.File(bytes: bytes, durable: bytes, isNameDurable: true)
    }
  }

  /// Removes a file, if it is there.
  package func remove(_ file: String) throws(ShardStorageFailure) {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      try disk.checkPower()
      disk.files[file] = nil
    }
  }

  /// Makes the names of the files survive a power cut.
  package func synchronizeNames() throws(ShardStorageFailure) {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      try disk.checkPower()
      for file in disk.files.keys.sorted() { disk.files[file]?.isNameDurable = true }
    }
  }

  /// Nothing to do: a simulated directory has no parent.
  package func removeIfEmpty() {}

  fileprivate func withFile<Result>(
    _ file: SimulatedFile,
    _ body: (inout SimulatedDisk, inout SimulatedDisk.File) throws(ShardStorageFailure) -> Result
  ) throws(ShardStorageFailure) -> Result {
    try disk.withLock { (disk) throws(ShardStorageFailure) in
      try disk.checkPower()
      guard disk.generation == file.generation, var content = disk.files.removeValue(forKey: file.name) else {
        throw .inputOutput(reason: "'\(file.name)' was removed or belongs to a time before the crash")
      }
      defer { disk.files[file.name] = content }
      return try body(&disk, &content)
    }
  }
}

/// The disk's content and what it would be after a power cut.
private struct SimulatedDisk {
  struct File {
    /// What reads see.
    var bytes: [UInt8] = []
    /// What a power cut leaves for certain.
    var durable: [UInt8] = []
    /// Writes and truncations since the last synchronisation, in order.
    var pending: [Change] = []
    var isNameDurable = false
  }

  enum Change {
    case write(offset: Int, bytes: [UInt8])
    case truncate(byteCount: Int)
  }

  /// Bytes that reach the disk together.
  static let sectorBytes = 512

  var files: [String: File] = [:]
  var capacity: Int
  var writesUntilPowerCut: Int?
  var refusesSynchronization = false
  var isLocked = false
  /// Number of crashes so far: files opened before the last one are unusable.
  var generation = 0

  var used: Int { files.values.reduce(0) { $0 + $1.bytes.count } }

  var refusal: ShardStorageFailure {
    writesUntilPowerCut == 0
      ? .inputOutput(reason: "the power is cut") : .full(reason: "the simulated disk is full")
  }

  func checkPower() throws(ShardStorageFailure) {
    if writesUntilPowerCut == 0 { throw refusal }
  }

  /// How many of `count` bytes can still be written when the files grow by `growth` with the last of them.
  mutating func spend(_ count: Int, growth: Int, usedElsewhere: Int = 0) throws(ShardStorageFailure) -> Int {
    try checkPower()
    let free = capacity - used - usedElsewhere
    let fitting = growth <= free ? count : max(0, count - (growth - free))
    guard let left = writesUntilPowerCut else { return fitting }
    let written = min(fitting, left)
    writesUntilPowerCut = left - written
    return written
  }

  mutating func crash(keeping keeps: () -> Bool) {
    generation += 1
    writesUntilPowerCut = nil
    isLocked = false
    // Sorted, so that the same answers always lose the same.
    for name in files.keys.sorted() {
      guard var file = files[name] else { continue }
      if !file.isNameDurable, !keeps() {
        files[name] = nil
        continue
      }
      for change in file.pending {
        switch change {
        case .write(let offset, let bytes):
          var start = 0
          while start < bytes.count {
            // Up to the next sector of the file.
            let position = offset + start
            let count = min(bytes.count - start, Self.sectorBytes - position % Self.sectorBytes)
            if keeps() {
              Self.write(bytes[start..<start + count], at: position, into: &file.durable)
            }
            start += count
          }
        case .truncate(let byteCount):
          if keeps(), byteCount < file.durable.count {
            file.durable.removeLast(file.durable.count - byteCount)
          }
        }
      }
      files[name] = File(bytes: file.durable, durable: file.durable, isNameDurable: true)
    }
  }

  /// Puts bytes into a file, which grows with zeros where nothing was written.
  static func write(_ bytes: ArraySlice<UInt8>, at offset: Int, into content: inout [UInt8]) {
    if content.count < offset + bytes.count {
      content += [UInt8](repeating: 0, count: offset + bytes.count - content.count)
    }
    content.replaceSubrange(offset..<offset + bytes.count, with: bytes)
  }
}

/// An open file of a simulated directory.
private final class SimulatedFile: ShardFile {
  let storage: SimulatedStorage
  let name: String
  let generation: Int

  init(_ storage: SimulatedStorage, _ name: String, _ generation: Int) {
    self.storage = storage
    self.name = name
    self.generation = generation
  }

  func byteCount() throws(ShardStorageFailure) -> Int {
    try storage.withFile(self) { (_, file) throws(ShardStorageFailure) in file.bytes.count }
  }

  func write(
    _ segments: UnsafeBufferPointer<UnsafeRawBufferPointer>, at offset: Int
  ) throws(ShardStorageFailure) {
    let bytes = segments.flatMap { Array($0) }
    try storage.withFile(self) { (disk, file) throws(ShardStorageFailure) in
      let growth = max(0, offset + bytes.count - file.bytes.count)
      let count = try disk.spend(bytes.count, growth: growth, usedElsewhere: file.bytes.count)
      if count > 0 {
        SimulatedDisk.write(bytes[..<count], at: offset, into: &file.bytes)
        file.pending.append(.write(offset: offset, bytes: Array(bytes[..<count])))
      }
      if count < bytes.count { throw disk.refusal }
    }
  }

  func read(
    at offset: Int, into segments: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>
  ) throws(ShardStorageFailure) -> Int {
    try storage.withFile(self) { (_, file) throws(ShardStorageFailure) in
      var position = offset
      for segment in segments {
        let count = max(0, min(segment.count, file.bytes.count - position))
        if count > 0 { segment.copyBytes(from: file.bytes[position..<position + count]) }
        position += count
        if count < segment.count { break }
      }
      return position - offset
    }
  }

  /// A simulated disk has no pages to fetch.
  func willNeed(_ range: Range<Int>) {}

  /// A simulated disk has no pages to let go.
  func release(_ range: Range<Int>) {}

  func truncate(to byteCount: Int) throws(ShardStorageFailure) {
    try storage.withFile(self) { (_, file) throws(ShardStorageFailure) in
      guard byteCount < file.bytes.count else { return }
      file.bytes.removeLast(file.bytes.count - byteCount)
      file.pending.append(.truncate(byteCount: byteCount))
    }
  }

  func synchronize() throws(ShardStorageFailure) {
    try storage.withFile(self) { (disk, file) throws(ShardStorageFailure) in
      if disk.refusesSynchronization { throw .inputOutput(reason: "'\(name)' cannot be synchronised") }
      file.durable = file.bytes
      file.pending = []
    }
  }
}
