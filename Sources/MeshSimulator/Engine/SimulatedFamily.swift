import CryptoPrimitives
package import HouseholdTrust
import Synchronization

/// The household of simulated devices: keys and a log, made once for each size; TEST-ONLY keys.
package struct SimulatedFamily: Sendable {
  /// The devices' keys.
  package let keys: [DeviceKeys]
  /// The log in which all are members and the first two are admins.
  package let log: MembershipLog

  private static let cache = Mutex<[Int: SimulatedFamily]>([:])

  /// The household of that many devices.
  package static func of(_ count: Int) -> SimulatedFamily {
    if let made = cache.withLock({ $0[count] }) { return made }
    let family = make(count)
    cache.withLock { $0[count] = family }
    return family
  }

  private static func make(_ count: Int) -> SimulatedFamily {
    precondition(count > 0, "a household of \(count) devices")
    var entropy = SeededEntropy(seed: 0x6661_6D69_6C79 + UInt64(count))
    let keys = (0..<count).map { _ in DeviceKeys(entropy: &entropy) }
    do {
      var household = try Household(
        creating: RecoveryPhrase(entropy: &entropy), keys: keys[0], name: "device 0", entropy: &entropy)
      for index in 1..<max(count, 1) {
        let request = try AdmissionRequest(keys: keys[index], name: "device \(index)", binding: [])
        _ = try household.admit(request, binding: [], isAdmin: index == 1, entropy: &entropy)
      }
      return SimulatedFamily(keys: keys, log: household.log)
    } catch {
      preconditionFailure("a simulated household of \(count): \(error)")
    }
  }
}
