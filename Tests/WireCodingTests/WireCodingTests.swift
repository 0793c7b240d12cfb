import Determinism
import Testing
import WireCoding

private func decodingFailure<Value>(_ body: () throws(DecodingFailure) -> Value) -> DecodingFailure? {
  do throws(DecodingFailure) {
    _ = try body()
    return nil
  } catch {
    return error
  }
}

@Suite struct WireCodingTests {
  @Test("Integers are little-endian in the width of their type")
  func integers() throws {
    var writer = ByteWriter()
    writer.integer(UInt8(0xA1))
    writer.integer(UInt16(0xB1B2))
    writer.integer(UInt32(0xC1C2_C3C4))
    writer.integer(UInt64(0xD1D2_D3D4_D5D6_D7D8))
    writer.integer(Int16(-2))
    #expect(
      writer.bytes == [
        0xA1, 0xB2, 0xB1, 0xC4, 0xC3, 0xC2, 0xC1, 0xD8, 0xD7, 0xD6, 0xD5, 0xD4, 0xD3, 0xD2, 0xD1, 0xFE, 0xFF,
      ])
    var reader = ByteReader(writer.bytes)
    #expect(try reader.integer("a", as: UInt8.self) == 0xA1)
    #expect(try reader.integer("b", as: UInt16.self) == 0xB1B2)
    #expect(try reader.integer("c", as: UInt32.self) == 0xC1C2_C3C4)
    #expect(try reader.integer("d", as: UInt64.self) == 0xD1D2_D3D4_D5D6_D7D8)
    #expect(try reader.integer("e", as: Int16.self) == -2)
    try reader.finish()
    #expect(reader.consumed == 17 && reader.remaining == 0)
  }

  private func roundTrip<Integer: FixedWidthInteger>(_ value: Integer) throws -> Bool {
    var writer = ByteWriter()
    writer.integer(value)
    var reader = ByteReader(writer.bytes)
    let read: Integer = try reader.integer("value")
    try reader.finish()
    return read == value && writer.bytes.count == Integer.bitWidth / 8
  }

  @Test("Every integer type reads back its ends and random values")
  func integerRoundTrips() throws {
    func check<Integer: FixedWidthInteger>(_ type: Integer.Type) throws {
      var generator = SeededGenerator(seed: 1)
      for value in [.min, .max, 0, 1] + (0..<200).map({ _ in Integer(truncatingIfNeeded: generator.next()) })
      {
        #expect(try roundTrip(value as Integer))
      }
    }
    try check(UInt8.self)
    try check(Int8.self)
    try check(UInt16.self)
    try check(Int16.self)
    try check(UInt32.self)
    try check(Int32.self)
    try check(UInt64.self)
    try check(Int64.self)
    try check(Int.self)
  }

  @Test("A field that the bytes end before is named, with what it needs and what is left")
  func truncation() {
    var reader = ByteReader([1, 2, 3])
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.integer("term", as: UInt32.self) }
        == .truncated(field: "term", needed: 4, available: 3))
    // A failed read takes nothing.
    #expect(reader.remaining == 3)
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.bytes("key", count: 4) }
        == .truncated(field: "key", needed: 4, available: 3))
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.bytes("all", count: .max) }
        == .truncated(field: "all", needed: .max, available: 3))
  }

  @Test("Lengths and counts have limits that are inclusive")
  func limits() throws {
    var writer = ByteWriter()
    writer.lengthPrefixed([7, 8, 9])
    #expect(writer.bytes == [3, 0, 7, 8, 9])
    var reader = ByteReader(writer.bytes)
    #expect(try reader.lengthPrefixed("body", limit: 3) == [7, 8, 9])
    reader = ByteReader(writer.bytes)
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.lengthPrefixed("body", limit: 2) }
        == .overLimit(field: "body", value: 3, limit: 2))
    reader = ByteReader([255, 255])
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.count("peers", limit: 65_534) }
        == .overLimit(field: "peers", value: 65_535, limit: 65_534))
    reader = ByteReader([255, 255])
    #expect(try reader.count("peers", limit: 65_535) == 65_535)
    // A length that the limit allows and the bytes do not have.
    reader = ByteReader([4, 0, 1])
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.lengthPrefixed("body", limit: 9) }
        == .truncated(field: "body", needed: 4, available: 1))
  }

  @Test("Text is UTF-8 within its limit of bytes")
  func text() throws {
    for text in ["", "desk", "Küche", "電腦", "👩‍👩‍👧", "\u{0}"] {
      var writer = ByteWriter()
      writer.text(text)
      var reader = ByteReader(writer.bytes)
      #expect(try reader.text("name", limit: 40) == text)
      try reader.finish()
    }
    // RFC 3629: overlong, surrogate, beyond U+10FFFF, lone continuation, cut sequence.
    for bytes in [[0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0x80], [0xE2, 0x82]]
      as [[UInt8]]
    {
      var writer = ByteWriter()
      writer.lengthPrefixed(bytes)
      var reader = ByteReader(writer.bytes)
      #expect(
        decodingFailure { () throws(DecodingFailure) in try reader.text("name", limit: 40) }
          == .notText(field: "name"))
    }
    var writer = ByteWriter()
    writer.text("üü")
    var reader = ByteReader(writer.bytes)
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.text("name", limit: 3) }
        == .overLimit(field: "name", value: 4, limit: 3))
  }

  @Test("A flag is 0 or 1, so that it has one encoding")
  func flags() throws {
    var writer = ByteWriter()
    writer.flag(true)
    writer.flag(false)
    #expect(writer.bytes == [1, 0])
    for value in UInt8.min...UInt8.max {
      var reader = ByteReader([value])
      let failure = decodingFailure { () throws(DecodingFailure) in try reader.flag("admin") }
      #expect(failure == (value > 1 ? .invalid(field: "admin", value: UInt64(value)) : nil))
    }
  }

  @Test("Bytes after the last field are refused, and the rest can be taken on purpose")
  func ends() throws {
    var reader = ByteReader([1, 2, 3])
    _ = try reader.integer("first", as: UInt8.self)
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.finish() } == .trailingBytes(count: 2))
    #expect(reader.rest() == [2, 3])
    try reader.finish()
    #expect(reader.rest().isEmpty)
  }

  @Test("A reader of a part of an array keeps to that part")
  func slices() throws {
    let bytes: [UInt8] = Array(0..<10)
    var reader = ByteReader(bytes[3..<6])
    #expect(reader.remaining == 3)
    #expect(try reader.integer("first", as: UInt8.self) == 3)
    #expect(reader.consumed == 1)
    #expect(try reader.bytes("rest", count: 2) == [4, 5])
    #expect(
      decodingFailure { () throws(DecodingFailure) in try reader.integer("more", as: UInt8.self) } != nil)
    try reader.finish()
  }

  private struct Pair: WireCodable, Equatable {
    var number: UInt16
    var text: String

    init(number: UInt16, text: String) {
      self.number = number
      self.text = text
    }

    init(from reader: inout ByteReader) throws(DecodingFailure) {
      number = try reader.integer("number")
      text = try reader.text("text", limit: 8)
    }

    func encode(to writer: inout ByteWriter) {
      writer.integer(number)
      writer.text(text)
    }
  }

  @Test("A value decodes from exactly its bytes, from arrays and slices")
  func codable() throws {
    let pair = Pair(number: 513, text: "ab")
    #expect(pair.encoded == [1, 2, 2, 0, 97, 98])
    #expect(try Pair(decoding: pair.encoded) == pair)
    #expect(try Pair(decoding: ([9] + pair.encoded)[1...]) == pair)
    #expect(
      decodingFailure { () throws(DecodingFailure) in try Pair(decoding: pair.encoded + [0]) }
        == .trailingBytes(count: 1))
    for count in 0..<pair.encoded.count {
      let failure = decodingFailure { () throws(DecodingFailure) in try Pair(decoding: pair.encoded[..<count])
      }
      #expect(failure != nil)
    }
  }

  @Test("No sequence of reads from random bytes traps, and none reads more than there is")
  func fuzz() {
    var generator = SeededGenerator(seed: 3)
    for _ in 0..<20_000 {
      let bytes = (0..<generator.uniform(below: 40)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      var reader = ByteReader(bytes)
      for _ in 0..<10 {
        let before = reader.remaining
        let limit = generator.uniform(below: 70_000)
        do throws(DecodingFailure) {
          switch generator.uniform(below: 8) {
          case 0: _ = try reader.integer("a", as: UInt8.self)
          case 1: _ = try reader.integer("b", as: UInt64.self)
          case 2: _ = try reader.bytes("c", count: generator.uniform(below: 20))
          case 3: _ = try reader.lengthPrefixed("d", limit: limit)
          case 4: _ = try reader.text("e", limit: limit)
          case 5: _ = try reader.flag("f")
          case 6: _ = try reader.count("g", limit: limit)
          default: _ = reader.rest()
          }
        } catch {
          #expect(!error.description.isEmpty)
        }
        #expect(reader.remaining <= before)
        #expect(reader.consumed + reader.remaining == bytes.count)
      }
    }
  }

  @Test("Every failure says which field, and the numbers")
  func descriptions() {
    #expect(
      DecodingFailure.truncated(field: "name", needed: 4, available: 1).description
        == "name needs 4 bytes, 1 are left")
    #expect(DecodingFailure.trailingBytes(count: 3).description == "3 bytes are left after the last field")
    #expect(
      DecodingFailure.overLimit(field: "peers", value: 300, limit: 256).description
        == "peers is 300; the limit is 256")
    #expect(DecodingFailure.mustUnderstand(tag: 9).description.contains("9"))
  }

  @Test("A count of more than 16 bits is our own bug and stops the program")
  func countPrecondition() async {
    await #expect(processExitsWith: .failure) {
      var writer = ByteWriter()
      writer.count(65_536)
    }
  }
}
