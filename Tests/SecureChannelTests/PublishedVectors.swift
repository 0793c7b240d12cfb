import CryptoPrimitives
import Foundation
import Testing

/// The files of keys/vectors, whose first line names where they were published.
enum PublishedVectors {
  private static let folder = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent("keys/vectors")

  static func text(_ name: String) throws -> String {
    try String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)
  }

  static func decoded<Content: Decodable>(_ name: String, as type: Content.Type) throws -> Content {
    try JSONDecoder().decode(type, from: Data(try text(name).utf8))
  }
}

/// A hexadecimal constant of a test.
func hex(_ text: String) -> [UInt8] {
  guard let bytes = decodeHexadecimal(text) else { preconditionFailure("'\(text)' is not hexadecimal") }
  return bytes
}

/// One handshake with its transport messages, in either of the two published layouts.
struct NoiseVector: Sendable, CustomTestStringConvertible {
  var name = ""
  var prologue: [UInt8] = []
  var preSharedKey: [UInt8] = []
  var initiatorStatic: [UInt8] = []
  var responderStatic: [UInt8] = []
  var initiatorEphemeral: [UInt8] = []
  var responderEphemeral: [UInt8] = []
  var handshakeHash: [UInt8]?
  var messages: [(payload: [UInt8], ciphertext: [UInt8])] = []

  var testDescription: String { "\(name), prologue of \(prologue.count), \(messages[0].payload.count) bytes" }

  /// The entry of cacophony's JSON.
  static func fromJSON(_ file: String) throws -> [NoiseVector] {
    struct Message: Decodable {
      let payload: String
      let ciphertext: String
    }
    struct Entry: Decodable {
      let protocol_name: String
      let init_prologue: String
      let init_static: String
      let resp_static: String
      let init_ephemeral: String
      let resp_ephemeral: String
      let handshake_hash: String
      let messages: [Message]
    }
    struct File: Decodable { let vectors: [Entry] }
    return try PublishedVectors.decoded(file, as: File.self).vectors.map { entry in
      NoiseVector(
        name: entry.protocol_name, prologue: hex(entry.init_prologue),
        initiatorStatic: hex(entry.init_static), responderStatic: hex(entry.resp_static),
        initiatorEphemeral: hex(entry.init_ephemeral), responderEphemeral: hex(entry.resp_ephemeral),
        handshakeHash: hex(entry.handshake_hash),
        messages: entry.messages.map { (hex($0.payload), hex($0.ciphertext)) })
    }
  }

  /// The entries of flynn/noise's text: `name=value` lines, a blank line between entries.
  static func fromText(_ file: String) throws -> [NoiseVector] {
    var vectors: [NoiseVector] = []
    for block in try PublishedVectors.text(file).components(separatedBy: "\n\n") {
      var vector = NoiseVector()
      var payload: [UInt8] = []
      for line in block.split(separator: "\n") where !line.hasPrefix("#") {
        let parts = line.split(separator: "=", omittingEmptySubsequences: false).map(String.init)
        switch parts[0] {
        case "handshake": vector.name = parts[1]
        case "prologue": vector.prologue = hex(parts[1])
        case "preshared_key": vector.preSharedKey = hex(parts[1])
        case "init_static": vector.initiatorStatic = hex(parts[1])
        case "resp_static": vector.responderStatic = hex(parts[1])
        case "gen_init_ephemeral": vector.initiatorEphemeral = hex(parts[1])
        case "gen_resp_ephemeral": vector.responderEphemeral = hex(parts[1])
        case let name where name.hasSuffix("_payload"): payload = hex(parts[1])
        case let name where name.hasSuffix("_ciphertext"):
          vector.messages.append((payload, hex(parts[1])))
        default: preconditionFailure("unknown line '\(line)' in \(file)")
        }
      }
      if !vector.name.isEmpty { vectors.append(vector) }
    }
    return vectors
  }

  static let all: [NoiseVector] = {
    let json = (try? fromJSON("noise-xx.json")) ?? []
    let text = (try? fromText("noise-xxpsk0.txt")) ?? []
    return json + text
  }()
}
