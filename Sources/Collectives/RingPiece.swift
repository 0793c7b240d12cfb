/// The two halves of an all-reduce.
package enum RingPhase: UInt8, Sendable, Hashable, CaseIterable {
  /// Every chunk goes round once and grows by each member's sums, until its own member has all of them.
  case reduceScatter
  /// Every finished chunk goes round once and is kept.
  case allGather
}

/// Names one message of a ring: a piece of a chunk on its way from a member to its successor.
package struct RingPiece: Sendable, Hashable {
  /// The half of the reduction.
  package var phase: RingPhase
  /// How many members have handed the chunk on in this phase.
  package var hop: Int
  /// The chunk.
  package var chunk: Int
  /// The number of the piece in its chunk.
  package var piece: Int

  /// A piece.
  package init(_ phase: RingPhase, hop: Int, chunk: Int, piece: Int) {
    self.phase = phase
    self.hop = hop
    self.chunk = chunk
    self.piece = piece
  }

  /// Hop and piece in one word, for a message's tag; the chunk follows from the hop and the place.
  package var part: UInt32 { UInt32(hop) << UInt32(Self.pieceBits) | UInt32(piece) }

  /// The most members of a ring.
  package static let memberLimit = 1 << 12
  /// The most pieces of a chunk.
  package static let pieceLimit = 1 << pieceBits
  private static let pieceBits = 20
}

/// Why a message has no place in a ring; the ring is as it was before.
package enum RingFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// There is no such hop, or another chunk travels in it.
  case unknownChunk(RingPiece, expected: Int?)
  /// The chunk has fewer pieces.
  case unknownPiece(RingPiece, pieces: Int)
  /// The message has another length than the piece.
  case wrongLength(RingPiece, elements: Int, expected: Int)
  /// The piece has been received before.
  case repeated(RingPiece)
  /// A finished piece to which this member has not added its sums yet.
  case early(RingPiece)

  /// What was wrong, where, and what follows.
  package var description: String {
    let fault =
      switch self {
      case .unknownChunk(let piece, let expected):
        "\(Self.name(piece)) came, but that hop has "
          + (expected.map { "chunk \($0)" } ?? "no place in a ring of this size")
      case .unknownPiece(let piece, let pieces):
        "\(Self.name(piece)) came, but the chunk has \(pieces) pieces"
      case .wrongLength(let piece, let elements, let expected):
        "\(Self.name(piece)) came with \(elements) elements in place of \(expected)"
      case .repeated(let piece): "\(Self.name(piece)) came twice"
      case .early(let piece): "\(Self.name(piece)) came before this device's sums were in it"
      }
    return "the device before this one in the ring broke its rules: \(fault); the step cannot go on"
  }

  private static func name(_ piece: RingPiece) -> String {
    let phase = piece.phase == .reduceScatter ? "growing" : "finished"
    return "piece \(piece.piece) of \(phase) chunk \(piece.chunk) in hop \(piece.hop)"
  }
}
