import Collectives
import ComputeRuntime
import NeuralNetworks

/// Runs the ring of one group over some sums: the shell of `RingReduction`.
final class GradientRing {
  /// Elements of a message: 256 KiB of 64-bit sums.
  static let pieceElements = 1 << 15

  /// The members' places in the plan, in the order of the ring.
  let members: [Int]
  /// What the members sum, as a part of the flat vector.
  let selection: VectorSelection
  /// Nanoseconds in `reduce` so far, waits included.
  private(set) var nanoseconds: UInt64 = 0
  private let links: JobLinks
  private let own: Int
  private let bucket: UInt32
  private let waits: WaitReason?

  /// - Parameters:
  ///   - bucket: the number of the selection among those that are reduced one after another.
  ///   - waits: what waiting is booked under; nil on a thread that is not the driver.
  init(
    members: [Int], selection: VectorSelection, links: JobLinks, bucket: Int = 0, waits: WaitReason? = .ring
  ) {
    self.bucket = UInt32(bucket)
    self.waits = waits
    self.members = members
    self.selection = selection
    self.links = links
    guard let own = members.firstIndex(of: links.place) else {
      preconditionFailure("device \(links.place) in the ring of \(members)")
    }
    self.own = own
  }

  /// Makes every member's sums the sums of all.
  func reduce(_ sums: any GradientSums, round: UInt64) throws(DistributedRunFailure) {
    guard members.count > 1 else { return }
    let start = MonotonicClock.nanoseconds()
    defer { nanoseconds += MonotonicClock.nanoseconds() - start }
    var ring = RingReduction(
      place: own, chunks: RingChunks(count: selection.count, members: members.count),
      piece: Self.pieceElements)
    try perform(ring.start(), message: [], sums: sums, ring: ring, round: round)
    while let piece = ring.awaited {
      let predecessor = members[ring.predecessor]
      let message = try links.receivePiece(tag(piece, round: round), from: predecessor, waits)
      guard let integers = unpacked(message, sums) else {
        throw .malformed(
          place: predecessor, content: "a piece of the ring",
          detail: "\(message.count) bytes are no whole sums")
      }
      let effects: [RingEffect]
      do throws(RingFailure) {
        effects = try ring.received(piece, elements: integers.count / sums.bytesPerSum)
      } catch {
        throw .ring(place: predecessor, error)
      }
      try perform(effects, message: integers, sums: sums, ring: ring, round: round)
    }
  }

  private func perform(
    _ effects: [RingEffect], message: [UInt8], sums: any GradientSums, ring: RingReduction, round: UInt64
  ) throws(DistributedRunFailure) {
    for effect in effects {
      switch effect {
      case .send(let piece, let range):
        try links.sendPiece(
          packed(bytes(of: range, sums), sums), tag(piece, round: round), to: members[ring.successor])
      case .add(let range):
        scatter(message, over: range, sums) { sums.add(integers: $0, to: $1) }
      case .store(let range):
        scatter(message, over: range, sums) { sums.store(integers: $0, to: $1) }
      case .finished: break
      }
    }
  }

  private func tag(_ piece: RingPiece, round: UInt64) -> JobTag {
    JobTag(
      piece.phase == .reduceScatter ? .reduceScatter : .allGather, step: round, unit: bucket, part: piece.part
    )
  }

  /// The selected elements `range` as a message.
  private func bytes(of range: Range<Int>, _ sums: any GradientSums) -> [UInt8] {
    let size = range.count * sums.bytesPerSum
    return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      for flat in selection.flatRanges(range) {
        let target = UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[count...])
        sums.withIntegers(flat) { target.copyMemory(from: UnsafeRawBufferPointer($0)) }
        count += flat.count * sums.bytesPerSum
      }
    }
  }

  /// 64-bit sums as they travel; 32-bit sums use their bits.
  private func packed(_ integers: [UInt8], _ sums: any GradientSums) -> [UInt8] {
    guard sums.bytesPerSum == MemoryLayout<Int64>.stride else { return integers }
    return integers.withUnsafeBytes { bytes in
      let count = bytes.count / MemoryLayout<Int64>.stride
      guard let base = bytes.baseAddress, count > 0 else { return [] }
      return PackedIntegers.encode(base.assumingMemoryBound(to: Int64.self), count: count)
    }
  }

  /// What `packed` was given; nil when the message cannot be.
  private func unpacked(_ message: [UInt8], _ sums: any GradientSums) -> [UInt8]? {
    guard sums.bytesPerSum == MemoryLayout<Int64>.stride else {
      return message.count % sums.bytesPerSum == 0 ? message : nil
    }
    guard let count = PackedIntegers.count(message), count <= Self.pieceElements else { return nil }
    let size = count * MemoryLayout<Int64>.stride
    return [UInt8](unsafeUninitializedCapacity: size) { buffer, initialized in
      if let base = buffer.baseAddress {
        PackedIntegers.decode(
          message, into: UnsafeMutableRawPointer(base).assumingMemoryBound(to: Int64.self))
      }
      initialized = size
    }
  }

  /// Hands each part of a message to the part of the flat vector that it belongs to.
  private func scatter(
    _ message: [UInt8], over range: Range<Int>, _ sums: any GradientSums,
    _ body: (UnsafeRawBufferPointer, Range<Int>) -> Void
  ) {
    message.withUnsafeBytes { bytes in
      var start = 0
      for flat in selection.flatRanges(range) {
        let end = start + flat.count * sums.bytesPerSum
        body(UnsafeRawBufferPointer(rebasing: bytes[start..<end]), flat)
        start = end
      }
    }
  }
}
