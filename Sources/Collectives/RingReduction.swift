/// What a member of a ring has to do, in order.
package enum RingEffect: Sendable, Equatable {
  /// Send the elements `range` of the own vector, as they are now, to the successor.
  case send(RingPiece, range: Range<Int>)
  /// Add the elements of the message that was just received to `range` of the own vector.
  case add(range: Range<Int>)
  /// Overwrite `range` of the own vector with the elements of the message that was just received.
  case store(range: Range<Int>)
  /// Nothing more will come or go: the vector holds the sums of all members.
  case finished
}

/// One member's part of an all-reduce round a ring (Patarasuk and Yuan 2009, §3), as data.
///
/// Every chunk travels the ring twice: once growing (`.add`), once finished (`.store`). Chunks are cut into pieces, and
/// a piece is handed on as soon as it was added, so sending, adding and receiving overlap. Sums are integers, so the
/// result is the same bits for any members and order.
///
/// ```
/// var ring = RingReduction(place: 2, chunks: chunks, piece: 32_768)
/// perform(ring.start())
/// while let piece = ring.awaited { perform(try ring.received(piece, elements: receive(piece))) }
/// ```
///
/// Messages of a link that keeps order come as `awaited` names them, and a driver may wait for just that one; pieces
/// in another order are taken too, as long as each could have been sent.
///
/// At the start `window` pieces are sent, then one for each that was received. So at most `members * window` pieces
/// are between members at any time, and members whose `send` blocks while a link holds more than `window` pieces never
/// wait for each other in a circle.
package struct RingReduction: Sendable {
  /// This member.
  package let place: Int
  /// How the vector is divided.
  package let chunks: RingChunks
  /// Most elements of a piece.
  package let piece: Int
  /// Pieces that are sent before any was received.
  package let window: Int
  /// The first piece in the order of the ring that has not been received; nil when there is none.
  package private(set) var awaited: RingPiece?
  /// Whether the vector holds the sums of all members.
  package private(set) var isFinished = false

  private var isStarted = false
  /// Pieces before each chunk, counted through all chunks; the last is the number of all.
  private let starts: [Int]
  /// How far each piece has come.
  private var progress: [Progress]
  /// Pieces that may be sent, and which of them is next.
  private var outgoing: [RingPiece] = []
  private var next = 0
  private var credit: Int
  private var missing: Int

  private enum Progress: UInt8 {
    case untouched, added, handedOn, stored
  }

  /// The part of member `place` in the sum of vectors that are divided by `chunks`.
  ///
  /// - Parameters:
  ///   - place: this member's place in the ring; it sends to the one after it.
  ///   - chunks: how the vector is divided; the same in all members.
  ///   - piece: the most elements of a message; the same in all members.
  ///   - window: pieces that are sent before any was received.
  package init(place: Int, chunks: RingChunks, piece: Int, window: Int = 16) {
    let members = chunks.members
    precondition(
      0..<members ~= place && members <= RingPiece.memberLimit && piece > 0 && window > 0,
      "member \(place) of \(members) with pieces of \(piece) and a window of \(window)")
    self.place = place
    self.chunks = chunks
    self.piece = piece
    var starts = [0]
    for chunk in 0..<members {
      let pieces = (chunks.range(chunk).count + piece - 1) / piece
      precondition(pieces <= RingPiece.pieceLimit, "chunk \(chunk) of \(pieces) pieces")
      starts.append(starts[chunk] + pieces)
    }
    self.starts = starts
    func pieces(_ chunk: Int) -> Int {
      let chunk = (chunk + members) % members
      return starts[chunk + 1] - starts[chunk]
    }
    // A member whose first chunk is longer than what it does not send in the end needs the difference at once: it would
    // wait for permission after the last piece was received.
    self.window = max(window, pieces(place - 1) - pieces(place + 1))
    credit = self.window
    progress = [Progress](repeating: .untouched, count: starts[members])
    missing = members == 1 ? 0 : 2 * starts[members] - pieces(place) - pieces(place - 1)
    if missing > 0 {
      let first = receivedChunk(.reduceScatter, hop: 0)
      awaited = RingPiece(.reduceScatter, hop: 0, chunk: first, piece: 0)
      skipReceived()
    }
  }

  /// The place of the member to which this one sends.
  package var successor: Int { (place + 1) % chunks.members }
  /// The place of the member from which this one receives.
  package var predecessor: Int { (place + chunks.members - 1) % chunks.members }

  /// The piece of this member's predecessor that a message's tag names; nil when the ring has none of that name.
  package func piece(_ phase: RingPhase, part: UInt32) -> RingPiece? {
    let hop = Int(part) / RingPiece.pieceLimit
    guard hop < chunks.members - 1 else { return nil }
    let chunk = receivedChunk(phase, hop: hop)
    let number = Int(part) % RingPiece.pieceLimit
    return number < pieces(chunk) ? RingPiece(phase, hop: hop, chunk: chunk, piece: number) : nil
  }

  /// The elements of a piece of the ring.
  package func range(_ piece: RingPiece) -> Range<Int> {
    let chunk = chunks.range(piece.chunk)
    let start = chunk.lowerBound + piece.piece * self.piece
    return start..<min(chunk.upperBound, start + self.piece)
  }

  /// Begins; called once.
  package mutating func start() -> [RingEffect] {
    precondition(!isStarted, "the ring of member \(place) was started twice")
    isStarted = true
    var effects: [RingEffect] = []
    if chunks.members > 1 {
      let first = predecessor
      for number in 0..<pieces(first) {
        outgoing.append(RingPiece(.reduceScatter, hop: 0, chunk: first, piece: number))
      }
    }
    sendAllowed(&effects)
    finishIfDone(&effects)
    return effects
  }

  /// A message of so many elements came from the predecessor; on a failure nothing has changed.
  package mutating func received(
    _ piece: RingPiece, elements: Int
  ) throws(RingFailure) -> [RingEffect] {
    precondition(isStarted, "member \(place) received \(piece) before its ring was started")
    let range = try check(piece, elements: elements)
    let index = starts[piece.chunk] + piece.piece
    var effects: [RingEffect] = []
    switch piece.phase {
    case .reduceScatter:
      progress[index] = .added
      effects.append(.add(range: range))
      if piece.chunk == place {
        handOn(RingPiece(.allGather, hop: 0, chunk: piece.chunk, piece: piece.piece))
      } else {
        handOn(RingPiece(.reduceScatter, hop: piece.hop + 1, chunk: piece.chunk, piece: piece.piece))
      }
    case .allGather:
      progress[index] = .stored
      effects.append(.store(range: range))
      if piece.chunk != successor {
        handOn(RingPiece(.allGather, hop: piece.hop + 1, chunk: piece.chunk, piece: piece.piece))
      }
    }
    credit += 1
    missing -= 1
    if piece == awaited { skipReceived() }
    sendAllowed(&effects)
    finishIfDone(&effects)
    return effects
  }

  // MARK: Rules

  private func check(_ piece: RingPiece, elements: Int) throws(RingFailure) -> Range<Int> {
    guard 0..<chunks.members - 1 ~= piece.hop else { throw .unknownChunk(piece, expected: nil) }
    let chunk = receivedChunk(piece.phase, hop: piece.hop)
    guard piece.chunk == chunk else { throw .unknownChunk(piece, expected: chunk) }
    guard 0..<pieces(chunk) ~= piece.piece else { throw .unknownPiece(piece, pieces: pieces(chunk)) }
    let range = range(piece)
    guard elements == range.count else {
      throw .wrongLength(piece, elements: elements, expected: range.count)
    }
    switch (piece.phase, progress[starts[chunk] + piece.piece]) {
    case (.reduceScatter, .untouched), (.allGather, .handedOn): return range
    case (.allGather, .untouched), (.allGather, .added): throw .early(piece)
    case (.reduceScatter, _), (.allGather, .stored): throw .repeated(piece)
    }
  }

  private func pieces(_ chunk: Int) -> Int { starts[chunk + 1] - starts[chunk] }

  /// The chunk that arrives here in a hop: growing ones end at their own member, finished ones begin there.
  private func receivedChunk(_ phase: RingPhase, hop: Int) -> Int {
    let members = chunks.members
    return (place + 2 * members - hop - (phase == .reduceScatter ? 2 : 1)) % members
  }

  private func isReceived(_ piece: RingPiece) -> Bool {
    let progress = progress[starts[piece.chunk] + piece.piece]
    return piece.phase == .allGather ? progress == .stored : progress != .untouched
  }

  // MARK: Effects

  private mutating func handOn(_ piece: RingPiece) { outgoing.append(piece) }

  private mutating func sendAllowed(_ effects: inout [RingEffect]) {
    while credit > 0, next < outgoing.count {
      let piece = outgoing[next]
      next += 1
      credit -= 1
      if piece.phase == .reduceScatter { progress[starts[piece.chunk] + piece.piece] = .handedOn }
      effects.append(.send(piece, range: range(piece)))
    }
    if next == outgoing.count {
      outgoing.removeAll(keepingCapacity: true)
      next = 0
    }
  }

  private mutating func finishIfDone(_ effects: inout [RingEffect]) {
    guard missing == 0, !isFinished else { return }
    precondition(next == outgoing.count, "member \(place) has received everything and not sent everything")
    isFinished = true
    effects.append(.finished)
  }

  /// Moves `awaited` to the first piece in the order of the ring that is missing.
  private mutating func skipReceived() {
    while var piece = awaited {
      if piece.piece < pieces(piece.chunk) {
        guard isReceived(piece) else { return }
        awaited?.piece += 1
        continue
      }
      piece.piece = 0
      piece.hop += 1
      if piece.hop == chunks.members - 1 {
        guard piece.phase == .reduceScatter else {
          awaited = nil
          return
        }
        piece.phase = .allGather
        piece.hop = 0
      }
      piece.chunk = receivedChunk(piece.phase, hop: piece.hop)
      awaited = piece
    }
  }
}
