/// One line of a file: its bytes without the line end, and its 1-based number.
struct ScannedLine {
  var number: Int
  var bytes: ArraySlice<UInt8>

  /// True when there is nothing in it but spaces and tabs.
  var isBlank: Bool {
    bytes.allSatisfy { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: "\r") }
  }
}

/// Cuts bytes into lines at LF or CRLF, or at CR in a file that holds no LF at all.
///
/// A CR between other characters of a file with LF lines is part of a text, not the end of a row: cutting there
/// would turn one good row into two bad ones. A last line without a line end is a line like any other, and a
/// byte order mark at the very start belongs to no line.
struct LineScanner {
  let bytes: [UInt8]
  /// The byte at which the next line starts.
  private(set) var position: Int
  private(set) var nextNumber = 1
  let endsAtCarriageReturn: Bool

  static let byteOrderMark: [UInt8] = [0xEF, 0xBB, 0xBF]

  init(_ bytes: [UInt8]) {
    self.bytes = bytes
    position = bytes.starts(with: Self.byteOrderMark) ? Self.byteOrderMark.count : 0
    endsAtCarriageReturn = !bytes.contains(UInt8(ascii: "\n")) && bytes.contains(UInt8(ascii: "\r"))
  }

  /// The byte that ends a line of this file.
  var lineEnd: UInt8 { endsAtCarriageReturn ? UInt8(ascii: "\r") : UInt8(ascii: "\n") }

  mutating func next() -> ScannedLine? {
    guard position < bytes.count else { return nil }
    let start = position
    let end = bytes[start...].firstIndex(of: lineEnd) ?? bytes.count
    position = min(end + 1, bytes.count)
    defer { nextNumber += 1 }
    return ScannedLine(number: nextNumber, bytes: withoutCarriageReturn(bytes[start..<end]))
  }

  /// Moves past a row that ended at `end` (the index of its line end, or the end of the bytes) and spanned
  /// `lines` lines.
  mutating func advance(pastRowEndingAt end: Int, lines: Int) {
    precondition(end >= position && end <= bytes.count, "row end \(end) outside \(position)...\(bytes.count)")
    position = min(end + 1, bytes.count)
    nextNumber += lines
  }

  /// A line of a CRLF file without its CR.
  func withoutCarriageReturn(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    line.last == UInt8(ascii: "\r") ? line.dropLast() : line
  }
}
