import CryptoPrimitives
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

/// A household of honest devices that tell each other their logs when a test says so.
struct Home {
  var entropy: SeededEntropy
  let phrase: String
  var devices: [Household] = []

  init(seed: UInt64, devices count: Int, admins: Int = 1) throws {
    entropy = SeededEntropy(seed: seed)
    let phrase = RecoveryPhrase(entropy: &entropy)
    self.phrase = phrase.revealed()
    devices.append(
      try Household(creating: phrase, keys: DeviceKeys(entropy: &entropy), name: "desk", entropy: &entropy))
    for index in 1..<max(count, 1) { try join(by: 0, name: "device \(index)", isAdmin: index < admins) }
    meet(Array(devices.indices))
  }

  mutating func join(by inviter: Int, name: String, isAdmin: Bool = false) throws {
    let keys = DeviceKeys(entropy: &entropy)
    let request = try AdmissionRequest(keys: keys, name: name, binding: [7])
    _ = try devices[inviter].admit(request, binding: [7], isAdmin: isAdmin, entropy: &entropy)
    let welcome = try Welcome(decoding: Welcome(devices[inviter].log).encoded)
    devices.append(try Household(log: welcome.log(), keys: keys))
  }

  /// Everybody of the list learns what everybody else of it knows.
  mutating func meet(_ indices: [Int]) {
    for _ in 0..<3 {
      for one in indices {
        for other in indices where other != one {
          let missing = devices[one].log.entries(missingFrom: devices[other].log.summary)
          _ = devices[other].merge(missing)
        }
      }
    }
  }

  func id(_ index: Int) -> DeviceID { devices[index].device }

  func psk(_ index: Int) -> [UInt8]? {
    guard let key = devices[index].ring.current else { return nil }
    return key.noisePSK().withUnsafeBytes { Array($0) }
  }
}

private func trustFailure(_ body: () throws -> Void) -> TrustFailure? {
  do {
    try body()
    return nil
  } catch {
    return error as? TrustFailure
      ?? (error as? RecoveryFailure).flatMap { failure in
        if case .trust(let inner) = failure { inner } else { nil }
      }
  }
}

@Suite struct HouseholdTests {
  @Test("The first device is an admin with the first network key")
  func creation() throws {
    let home = try Home(seed: 1, devices: 1)
    let device = home.devices[0]
    #expect(device.isAdmin)
    #expect(device.log.memberIDs == [device.device])
    #expect(device.log.networkKeyEpoch == 1)
    #expect(device.ring.epochs == [1])
    #expect(device.certificate.issuer == .root)
    #expect(device.certificate.isSigned(by: device.log.genesis.root))
    #expect(!device.log.view.needsNewNetworkKey && device.log.view.membersWithoutNetworkKey.isEmpty)
  }

  @Test("An admitted device has the household's log and network key")
  func admission() throws {
    let home = try Home(seed: 2, devices: 3)
    for index in 0..<3 {
      #expect(home.devices[index].log.summary == home.devices[0].log.summary)
      #expect(home.psk(index) == home.psk(0) && home.psk(index) != nil)
      #expect(home.devices[index].certificate.name == (index == 0 ? "desk" : "device \(index)"))
      #expect(home.devices[index].isAdmin == (index == 0))
    }
  }

  @Test(
    "Admission needs an admin, a request for this very exchange, and a device that is new and not revoked")
  func refusedAdmissions() throws {
    var home = try Home(seed: 3, devices: 3)
    let keys = DeviceKeys(entropy: &home.entropy)
    let request = try AdmissionRequest(keys: keys, name: "tablet", binding: [1])
    #expect(
      trustFailure { _ = try home.devices[1].admit(request, binding: [1], entropy: &home.entropy) }
        == .notAdmin)
    #expect(
      trustFailure { _ = try home.devices[0].admit(request, binding: [2], entropy: &home.entropy) }
        == .unprovenRequest)
    _ = try home.devices[0].admit(request, binding: [1], entropy: &home.entropy)
    #expect(
      trustFailure { _ = try home.devices[0].admit(request, binding: [1], entropy: &home.entropy) }
        == .alreadyMember(keys.device))
    _ = try home.devices[0].revoke(keys.device, reason: .lost, entropy: &home.entropy)
    #expect(
      trustFailure { _ = try home.devices[0].admit(request, binding: [1], entropy: &home.entropy) }
        == .revoked(keys.device))
    #expect(
      trustFailure { _ = try Household(log: home.devices[0].log, keys: DeviceKeys(entropy: &home.entropy)) }
        == .notAdmitted)
  }

  @Test("A machine that was removed comes back under a new identity only")
  func readmission() throws {
    var home = try Home(seed: 4, devices: 2)
    let old = home.id(1)
    _ = try home.devices[0].revoke(old, reason: .retired, entropy: &home.entropy)
    try home.join(by: 0, name: "device 1")
    #expect(home.devices[0].log.isRevoked(old))
    #expect(home.devices[0].log.isMember(home.id(2)) && home.id(2) != old)
  }

  @Test("Revocation makes a network key that the removed device cannot open")
  func revocation() throws {
    var home = try Home(seed: 5, devices: 3)
    let old = home.psk(0)
    let entries = try home.devices[0].revoke(home.id(2), reason: .lost, entropy: &home.entropy)
    #expect(entries.count == 2)
    home.meet([0, 1, 2])
    #expect(home.devices[0].log.networkKeyEpoch == 2)
    #expect(home.psk(0) == home.psk(1) && home.psk(0) != old)
    // The removed device learns that it is out, and stays on the key that it had.
    #expect(home.devices[2].isRevoked)
    #expect(home.devices[2].ring.epochs == [1] && home.psk(2) == old)
    // The others keep the old key, for those who slept through the change.
    #expect(home.devices[1].ring.epochs == [2, 1])
    #expect(home.devices[1].snapshot.evaluate(home.devices[2].certificate) == .revoked)
  }

  @Test("The current network key and eight past ones are kept, and each is found by its hint and its tag")
  func ring() throws {
    var home = try Home(seed: 6, devices: 2)
    var hints = [home.devices[0].ring.current?.epochHint]
    for _ in 0..<12 {
      _ = try home.devices[0].rotateNetworkKey(entropy: &home.entropy)
      hints.append(home.devices[0].ring.current?.epochHint)
    }
    home.meet([0, 1])
    for index in 0..<2 {
      let ring = home.devices[index].ring
      #expect(ring.epochs == Array((5...13).reversed()))
      for epoch in 5...13 as ClosedRange<UInt32> {
        let hint = try #require(hints[Int(epoch) - 1])
        #expect(ring.key(hint: hint)?.id.epoch == epoch)
        #expect(ring.epochHint(epoch) == hint)
        let tag = try #require(ring.householdTag(epoch))
        #expect(ring.key(householdTag: tag)?.id.epoch == epoch)
        #expect(ring.noisePSK(epoch)?.count == 32 && ring.beaconKey(epoch)?.count == 32)
      }
      #expect(ring.key(hint: hints[3] ?? []) == nil && ring.noisePSK(4) == nil)
    }
    #expect(Set(hints.compactMap { $0 }).count == 13)
    // A device that was away for all of it gets every key that is still used from the log alone.
    let late = try Household(log: home.devices[0].log, keys: home.devices[1].keys)
    #expect(late.ring.epochs == home.devices[1].ring.epochs)
  }

  @Test("When two admins make the same epoch apart, all prefer one key and know both")
  func concurrentRotation() throws {
    var home = try Home(seed: 7, devices: 4, admins: 2)
    _ = try home.devices[0].rotateNetworkKey(entropy: &home.entropy)
    _ = try home.devices[1].rotateNetworkKey(entropy: &home.entropy)
    let hints = [home.devices[0].ring.current?.epochHint, home.devices[1].ring.current?.epochHint]
    #expect(hints[0] != hints[1])
    home.meet([0, 1, 2, 3])
    for index in 0..<4 {
      #expect(home.psk(index) == home.psk(0))
      #expect(home.devices[index].ring.epochs == [2, 1])
      for hint in hints { #expect(home.devices[index].ring.key(hint: hint ?? []) != nil) }
    }
  }

  @Test("An admin's upkeep gives the key to a device that another admin admitted under the old one")
  func maintenance() throws {
    var home = try Home(seed: 8, devices: 3, admins: 2)
    _ = try home.devices[0].revoke(home.id(2), reason: .lost, entropy: &home.entropy)
    try home.join(by: 1, name: "phone")
    home.meet([0, 1, 3])
    #expect(home.devices[0].log.view.membersWithoutNetworkKey == [home.id(3)])
    #expect(home.psk(3) != home.psk(0))
    #expect(try home.devices[3].maintain(entropy: &home.entropy).isEmpty)
    #expect(try home.devices[0].maintain(entropy: &home.entropy).count == 1)
    #expect(try home.devices[0].maintain(entropy: &home.entropy).isEmpty)
    home.meet([0, 1, 3])
    #expect(home.psk(3) == home.psk(0) && home.psk(1) == home.psk(0))
  }

  @Test("An admin's upkeep makes a new key when another admin gave the current one to a removed device")
  func maintenanceAfterConcurrentRevocations() throws {
    var home = try Home(seed: 9, devices: 5, admins: 2)
    // Apart, each removes one device, so each new key is known to the device that the other removed.
    _ = try home.devices[0].revoke(home.id(3), reason: .lost, entropy: &home.entropy)
    _ = try home.devices[1].revoke(home.id(4), reason: .lost, entropy: &home.entropy)
    home.meet([0, 1, 2])
    #expect(home.devices[1].log.view.needsNewNetworkKey)
    _ = try home.devices[1].maintain(entropy: &home.entropy)
    home.meet([0, 1, 2, 3, 4])
    #expect(!home.devices[0].log.view.needsNewNetworkKey)
    #expect(home.psk(0) == home.psk(2))
    #expect(home.psk(3) != home.psk(0) && home.psk(4) != home.psk(0))
  }

  @Test("A promoted device may issue, a demoted one not, and its earlier entries go on to count")
  func promotion() throws {
    var home = try Home(seed: 10, devices: 3)
    #expect(trustFailure { _ = try home.devices[1].promote(home.id(2)) } == .notAdmin)
    _ = try home.devices[0].promote(home.id(1))
    #expect(trustFailure { _ = try home.devices[0].promote(home.id(1)) } == .alreadyAdmin(home.id(1)))
    home.meet([0, 1, 2])
    #expect(home.devices[1].isAdmin && home.devices[2].log.view.admins.count == 2)
    try home.join(by: 1, name: "first")
    home.meet([0, 1, 2, 3])
    _ = try home.devices[0].demote(home.id(1))
    home.meet([0, 1, 2, 3])
    #expect(!home.devices[1].isAdmin)
    #expect(trustFailure { try home.join(by: 1, name: "second") } == .notAdmin)
    #expect(home.devices[2].log.isMember(home.id(3)))
    #expect(trustFailure { _ = try home.devices[0].demote(home.id(1)) } == .notAnAdmin(home.id(1)))
    _ = try home.devices[0].promote(home.id(1))
    home.meet([0, 1, 2, 3])
    try home.join(by: 1, name: "third")
    home.meet([0, 1, 2, 3, 4])
    #expect(home.devices[2].log.memberIDs.count == 5)
    #expect(home.devices[4].certificate.issuer == .device(home.id(1)))
  }

  @Test("The last admin can neither be demoted nor leave, unless it is alone")
  func lastAdmin() throws {
    var home = try Home(seed: 11, devices: 2)
    #expect(trustFailure { _ = try home.devices[0].demote(home.id(0)) } == .lastAdmin(home.id(0)))
    #expect(trustFailure { _ = try home.devices[0].leave() } == .lastAdmin(home.id(0)))
    #expect(
      trustFailure { _ = try home.devices[0].revoke(home.id(0), reason: .left, entropy: &home.entropy) }
        == .lastAdmin(home.id(0)))
    _ = try home.devices[0].promote(home.id(1))
    home.meet([0, 1])
    _ = try home.devices[0].leave()
    home.meet([0, 1])
    #expect(home.devices[0].isRevoked && home.devices[1].log.view.admins == [home.id(1)])
    _ = try home.devices[1].leave()
    #expect(home.devices[1].log.members.isEmpty)
  }

  @Test("A device that is no admin may remove itself, and an admin then renews the network key")
  func leaving() throws {
    var home = try Home(seed: 12, devices: 3)
    _ = try home.devices[2].leave()
    #expect(trustFailure { _ = try home.devices[2].leave() } == .revoked(home.id(2)))
    home.meet([0, 1, 2])
    #expect(home.devices[0].log.isRevoked(home.id(2)))
    #expect(home.devices[0].log.view.status(of: home.id(2))?.revocation?.reason == .left)
    #expect(home.devices[0].log.view.needsNewNetworkKey)
    _ = try home.devices[0].maintain(entropy: &home.entropy)
    home.meet([0, 1, 2])
    #expect(home.psk(1) == home.psk(0) && home.psk(2) != home.psk(0))
  }

  @Test("Revoking so far back that the own right would fall is refused")
  func revokingTooFar() throws {
    var home = try Home(seed: 13, devices: 3, admins: 2)
    let origin = home.devices[1].log.genesis.origin
    #expect(
      trustFailure {
        _ = try home.devices[1].revoke(
          home.id(0), reason: .compromised, through: origin, entropy: &home.entropy)
      } == .wouldVoidItself(home.id(0)))
    #expect(
      trustFailure {
        _ = try home.devices[1].revoke(
          home.id(0), reason: .compromised, through: home.devices[1].log.head(of: .root),
          entropy: &home.entropy)
      } == .notInChain(home.id(0)))
    _ = try home.devices[1].revoke(home.id(0), reason: .compromised, entropy: &home.entropy)
    #expect(home.devices[1].log.isRevoked(home.id(0)))
  }

  @Test("The recovery phrase makes a new admin on a device that was none, and removes the lost ones")
  func recovery() throws {
    var home = try Home(seed: 14, devices: 3)
    #expect(trustFailure { try home.join(by: 1, name: "x") } == .notAdmin)
    let phrase = try RecoveryPhrase(typed: home.phrase.lowercased())
    let entries = try home.devices[1].recover(
      with: phrase, revoking: [LostDevice(home.id(0))], entropy: &home.entropy)
    #expect(entries.count == 3)
    home.meet([0, 1, 2])
    #expect(home.devices[2].log.view.admins == [home.id(1)])
    #expect(home.devices[2].log.isRevoked(home.id(0)))
    #expect(home.psk(2) == home.psk(1) && home.psk(0) != home.psk(1))
    try home.join(by: 1, name: "new desk")
    #expect(home.devices[3].log.memberIDs.count == 3)
    // What the lost admin had done, such as admitting device 2, counts.
    #expect(home.devices[3].log.isMember(home.id(2)))
  }

  @Test("Another household's phrase is refused")
  func foreignPhrase() throws {
    var home = try Home(seed: 15, devices: 2)
    let other = try Home(seed: 16, devices: 1)
    let phrase = try RecoveryPhrase(typed: other.phrase)
    #expect(throws: RecoveryFailure.phrase(.otherHousehold)) {
      _ = try home.devices[1].recover(with: phrase, entropy: &home.entropy)
    }
  }

  @Test("When a thief and an owner revoke each other both are out, and the root says who is right")
  func mutualRevocation() throws {
    var home = try Home(seed: 17, devices: 4, admins: 2)
    // Device 0 is stolen. Apart, its thief and device 1 revoke each other; the thief also admits an accomplice.
    _ = try home.devices[1].revoke(home.id(0), reason: .lost, entropy: &home.entropy)
    _ = try home.devices[0].revoke(home.id(1), reason: .lost, entropy: &home.entropy)
    try home.join(by: 0, name: "accomplice", isAdmin: true)
    _ = try home.devices[4].revoke(home.id(2), reason: .lost, entropy: &home.entropy)
    home.meet([0, 1, 2, 3, 4])
    #expect(home.devices[3].log.view.isContested)
    #expect(home.devices[3].log.isRevoked(home.id(0)) && home.devices[3].log.isRevoked(home.id(1)))
    #expect(!home.devices[3].log.isMember(home.id(4)))
    #expect(home.devices[3].log.view.admins.isEmpty)
    // The root confirms the owner's line, and everything that the thief did after it never was.
    let phrase = try RecoveryPhrase(typed: home.phrase)
    _ = try home.devices[1].recover(with: phrase, revoking: [LostDevice(home.id(0))], entropy: &home.entropy)
    home.meet([0, 1, 2, 3, 4])
    let view = home.devices[3].log.view
    #expect(!view.isContested)
    #expect(view.members.map(\.device) == [home.id(1), home.id(2), home.id(3)].sorted())
    #expect(view.admins == [home.id(1)])
    #expect(view.revoked == [home.id(0)])
    #expect(home.psk(2) == home.psk(1) && home.psk(3) == home.psk(1))
  }

  @Test("Names that would not show as one plain line are refused")
  func names() throws {
    for name in [
      "", " desk", "desk ", "a\nb", "a\u{1B}[31m", "a\u{202E}b", "a\u{200B}b", "\u{7F}", "a\u{FEFF}",
    ] {
      #expect(!isValidDeviceName(name), "\(Array(name.utf8))")
    }
    #expect(!isValidDeviceName(String(repeating: "x", count: 41)))
    #expect(!isValidDeviceName(String(repeating: "ü", count: 21)))
    for name in ["x", "Büro-PC", "küche 2", "電腦", String(repeating: "ü", count: 20)] {
      #expect(isValidDeviceName(name), "\(name)")
    }
    #expect(deviceName(from: "desk\n") == "desk")
    #expect(deviceName(from: "  \u{1B} ") == "device")
    #expect(deviceName(from: String(repeating: "ü", count: 50)) == String(repeating: "ü", count: 20))
    #expect(deviceName(from: "") == "device")
    var entropy = SeededEntropy(seed: 1)
    #expect(throws: TrustFailure.invalidName(byteCount: 0)) {
      _ = try AdmissionRequest(keys: DeviceKeys(entropy: &entropy), name: "", binding: [])
    }
  }
}
