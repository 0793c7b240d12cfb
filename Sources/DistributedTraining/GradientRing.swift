import Collectives
import ComputeRuntime
import NeuralNetworks

/// Runs the ring of one group over some sums: the shell of `RingReduction`.
final class GradientRing {
  /// Elements of a message: 1 MiB of 64-bit sums.
  static let pieceElements = 1 << 17

  /// The members' places in the plan, in the order of the ring.
  let members: [Int]
  /// What the members sum, as a part of the flat vector.
  let selection: VectorSelection
  /// Nanoseconds in `reduce` so far, waits included.
  private(set) var nanoseconds: UInt64 = 0
  /// What this device has sent so far.
  private(set) var traffic = SumTraffic()
  private let links: JobLinks
  private let own: Int
  private let bucket: UInt32
  private let waits: WaitReason?
  /// Where the sums of a message are unpacked, or put together, so that no message needs memory of its own for that.
  private let scratch = UnsafeMutablePointer<Int64>.allocate(capacity: pieceElements)
  /// Finished pieces that are to be handed on, by their first element: their bytes need not be made again.
  private var finished: [Int: [UInt8]] = [:]

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

  deinit { scratch.deallocate() }

  /// Makes every member's sums the sums of all.
  func reduce(_ sums: any GradientSums, round: UInt64) throws(DistributedRunFailure) {
    guard members.count > 1 else { return }
    let start = MonotonicClock.nanoseconds()
    defer {
      nanoseconds += MonotonicClock.nanoseconds() - start
      finished.removeAll(keepingCapacity: true)
    }
    var ring = RingReduction(
      place: own, chunks: RingChunks(count: selection.count, members: members.count),
      piece: Self.pieceElements)
    try perform(ring.start(), [], sums, ring, round)
    while let piece = ring.awaited {
      let predecessor = members[ring.predecessor]
      let message = try links.receivePiece(tag(piece, round: round), from: predecessor, waits)
      guard let count = count(message, sums) else {
        throw .malformed(
          place: predecessor, content: "a piece of the ring",
          detail: "\(message.count) bytes are no whole sums")
      }
      let effects: [RingEffect]
      do throws(RingFailure) {
        effects = try ring.received(piece, elements: count)
      } catch {
        throw .ring(place: predecessor, error)
      }
      if piece.phase == .allGather, piece.chunk != ring.successor {
        finished[ring.range(piece).lowerBound] = message
      }
      try perform(effects, message, sums, ring, round)
    }
  }

  private func perform(
    _ effects: [RingEffect], _ received: [UInt8], _ sums: any GradientSums, _ ring: RingReduction,
    _ round: UInt64
  ) throws(DistributedRunFailure) {
    for effect in effects {
      switch effect {
      case .send(let piece, let range):
        let known = piece.phase == .allGather ? finished.removeValue(forKey: range.lowerBound) : nil
        let message = known ?? message(of: range, sums)
        traffic.add(sums: range.count, bytes: message.count)
        try links.sendPiece(message, tag(piece, round: round), to: members[ring.successor])
      case .add(let range):
        combine(received, over: range, sums, inPlace: PackedIntegers.add) { sums.add(integers: $0, to: $1) }
      case .store(let range):
        combine(received, over: range, sums, inPlace: PackedIntegers.decode) {
          sums.store(integers: $0, to: $1)
        }
      case .finished: break
      }
    }
  }

  private func tag(_ piece: RingPiece, round: UInt64) -> JobTag {
    JobTag(
      piece.phase == .reduceScatter ? .reduceScatter : .allGather, step: round, unit: bucket, part: piece.part
    )
  }

  /// The selected elements `range` as they travel: 64-bit sums packed, 32-bit ones as they are.
  private func message(of range: Range<Int>, _ sums: any GradientSums) -> [UInt8] {
    let parts = selection.flatRanges(range)
    // Nearly always one part; several are put together first.
    if parts.count == 1 {
      return sums.withIntegers(parts[0]) { message(of: UnsafeRawBufferPointer($0), sums) }
    }
    let gathered = UnsafeMutableRawBufferPointer(start: scratch, count: range.count * sums.bytesPerSum)
    var start = 0
    for flat in parts {
      let target = UnsafeMutableRawBufferPointer(rebasing: gathered[start...])
      sums.withIntegers(flat) { target.copyMemory(from: UnsafeRawBufferPointer($0)) }
      start += flat.count * sums.bytesPerSum
    }
    return message(of: UnsafeRawBufferPointer(gathered), sums)
  }

  private func message(of integers: UnsafeRawBufferPointer, _ sums: any GradientSums) -> [UInt8] {
    guard let base = integers.baseAddress, isPacked(sums) else { return Array(integers) }
    let count = integers.count / MemoryLayout<Int64>.stride
    return PackedIntegers.encode(base.assumingMemoryBound(to: Int64.self), count: count)
  }

  private func isPacked(_ sums: any GradientSums) -> Bool { sums.bytesPerSum == MemoryLayout<Int64>.stride }

  /// The sums of a message, or nil when it cannot be one of ours.
  private func count(_ message: [UInt8], _ sums: any GradientSums) -> Int? {
    if isPacked(sums) { return PackedIntegers.count(message, atMost: Self.pieceElements) }
    let (count, rest) = message.count.quotientAndRemainder(dividingBy: sums.bytesPerSum)
    return rest == 0 && count <= Self.pieceElements ? count : nil
  }

  /// Puts the sums of a message that has a count into `scratch`.
  private func unpack(_ message: [UInt8], _ sums: any GradientSums) -> UnsafeRawBufferPointer {
    guard isPacked(sums) else {
      message.withUnsafeBytes {
        UnsafeMutableRawPointer(scratch).copyMemory(
          from: $0.baseAddress ?? UnsafeRawPointer(scratch), byteCount: $0.count)
      }
      return UnsafeRawBufferPointer(start: scratch, count: message.count)
    }
    PackedIntegers.decode(message, into: scratch)
    let count = PackedIntegers.count(message) ?? 0
    return UnsafeRawBufferPointer(start: scratch, count: count * MemoryLayout<Int64>.stride)
  }

  /// Adds a message's sums to others or overwrites them: where packed ones belong in one place, there, and otherwise part
  /// by part from `scratch`.
  private func combine(
    _ message: [UInt8], over range: Range<Int>, _ sums: any GradientSums,
    inPlace: ([UInt8], UnsafeMutablePointer<Int64>) -> Void,
    byPart: (UnsafeRawBufferPointer, Range<Int>) -> Void
  ) {
    let parts = selection.flatRanges(range)
    guard isPacked(sums), parts.count == 1 else {
      return scatter(unpack(message, sums), over: range, sums, byPart)
    }
    sums.withIntegers(parts[0]) {
      guard let base = $0.baseAddress else { return }
      inPlace(message, base.assumingMemoryBound(to: Int64.self))
    }
  }

  /// Hands each part of a message to the part of the flat vector that it belongs to.
  private func scatter(
    _ bytes: UnsafeRawBufferPointer, over range: Range<Int>, _ sums: any GradientSums,
    _ body: (UnsafeRawBufferPointer, Range<Int>) -> Void
  ) {
    var start = 0
    for flat in selection.flatRanges(range) {
      let end = start + flat.count * sums.bytesPerSum
      body(UnsafeRawBufferPointer(rebasing: bytes[start..<end]), flat)
      start = end
    }
  }
}
