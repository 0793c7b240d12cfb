import CryptoPrimitives
import Determinism
import Foundation
import HouseholdTrust
import MeshModel
import SecureChannel
import Testing

/// Measurements, not assertions about time: they run when HEARTH_MEASURE is set, and print medians.
///
///     HEARTH_MEASURE=1 chrt -r 5 swift test -c release --skip-build --filter SpeedTests
@Suite("Speed", .serialized, .enabled(if: ProcessInfo.processInfo.environment["HEARTH_MEASURE"] != nil))
struct SpeedTests {
  /// The median of nine runs of `body`, each `count` units, in nanoseconds a unit.
  private func median(count: Int, _ body: () throws -> Void) rethrows -> Double {
    var times: [Double] = []
    for _ in 0..<9 {
      let start = ContinuousClock.now
      for _ in 0..<count { try body() }
      times.append((ContinuousClock.now - start) / .nanoseconds(1) / Double(count))
    }
    return times.sorted()[4]
  }

  @Test("sealing and opening records in place", arguments: [1_024, 4_096, 16_384, 65_519])
  func records(_ messageByteCount: Int) throws {
    var buffer = [UInt8](repeating: 7, count: messageByteCount + 16)
    let key = SecretBytes(copying: [UInt8](0..<32))
    let cipher = ChaChaPoly(key: key.copy())
    let repeats = max(20, 4_000_000 / messageByteCount)
    var sealer = RecordSealer(key: key.copy())
    let seal = median(count: repeats) { buffer.withUnsafeMutableBytes { sealer.seal($0) } }
    let bare = median(count: repeats) { buffer.withUnsafeMutableBytes { cipher.seal($0, counter: 1) } }
    // A record opens once: the opener's counter stays by giving every run a new opener over sealed records.
    var records: [[UInt8]] = []
    var again = RecordSealer(key: key.copy())
    for _ in 0..<repeats {
      var record = [UInt8](repeating: 7, count: messageByteCount + 16)
      record.withUnsafeMutableBytes { again.seal($0) }
      records.append(record)
    }
    var opens: [Double] = []
    for _ in 0..<9 {
      var opener = RecordOpener(key: key.copy())
      var copies = records
      for index in copies.indices { copies[index][0] &+= 0 }
      let start = ContinuousClock.now
      for index in copies.indices {
        let count = copies[index].withUnsafeMutableBytes { bytes in try? opener.open(bytes) }
        #expect(count == messageByteCount)
      }
      opens.append((ContinuousClock.now - start) / .nanoseconds(1) / Double(repeats))
    }
    let open = opens.sorted()[4]
    func rate(_ nanoseconds: Double) -> String {
      String(format: "%.3f GB/s", Double(messageByteCount) / nanoseconds)
    }
    print(
      "record of \(messageByteCount): seal \(rate(seal)), open \(rate(open)), libsodium seal \(rate(bare))")
  }

  @Test("the processor time of a session handshake, both sides together")
  func handshake() throws {
    let home = try TestHousehold(seed: 1)
    let (left, right) = (home.identity(0), home.identity(1))
    var isEstablished = true
    let both = median(count: 50) {
      let pair = HandshakePair(left, right)
      pair.run()
      isEstablished = isEstablished && pair.responderSession != nil
    }
    #expect(isEstablished)
    print(String(format: "session handshake: %.3f ms a side", both / 2e6))
  }

  @Test("the processor time of the parts of a handshake")
  func parts() throws {
    var entropy = SeededEntropy(seed: 1)
    let key = AgreementKey(entropy: &entropy)
    let other = AgreementKey(entropy: &entropy).publicKey
    let signing = SigningKey(entropy: &entropy)
    let signature = signing.sign([1])
    let verifier = signing.publicKey
    var isGood = true
    let make = median(count: 100) { _ = AgreementKey(entropy: &entropy) }
    let agree = median(count: 100) { isGood = isGood && key.sharedSecret(with: other) != nil }
    let verify = median(count: 100) { isGood = isGood && verifier.verifies(signature, of: [1]) }
    let secrets = median(count: 1_000) { isGood = isGood && SecretBytes(copying: [1, 2]).count == 2 }
    #expect(isGood)
    print(
      String(
        format: "X25519 key %.1f us, agreement %.1f us, Ed25519 verify %.1f us, secret %.3f us", make / 1e3,
        agree / 1e3, verify / 1e3, secrets / 1e3))
  }

  @Test("the processor time of pairing by code, both sides together, with the log and its signatures")
  func pairing() throws {
    let home = try TestHousehold(seed: 1)
    guard let code = PairingCode(typed: "48219037") else { return #expect(Bool(false)) }
    var window = PairingWindow()
    window.open(code.copy(), discriminator: 1, at: .zero)
    var isAdmitted = true
    let both = median(count: 10) {
      let pair = PairingPair(home, window, by: .code(code.copy()))
      pair.run()
      isAdmitted = isAdmitted && pair.admitted != nil
    }
    #expect(isAdmitted)
    print(String(format: "pairing by code: %.2f ms of both sides", both / 1e6))
  }
}
