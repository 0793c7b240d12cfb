package import CryptoPrimitives
package import HearthStorage
package import HouseholdTrust
import MeshModel

/// What commands do with this device's household on the disk, while no daemon has it.
package struct HouseholdOffice: Sendable {
  /// Where the household is.
  package let place: HouseholdPlace

  /// The office of a place.
  package init(_ place: HouseholdPlace) { self.place = place }

  /// What a creation leaves to be shown.
  package struct Creation: ~Copyable {
    /// The household's root, to be written on paper.
    package let phrase: RecoveryPhrase
    /// What this device holds now.
    package let household: Household
    let place: HouseholdPlace
  }

  /// Makes a household whose first admin is this device.
  package func create(name: String?) throws -> Creation {
    var entropy = SystemEntropy()
    let phrase = RecoveryPhrase(entropy: &entropy)
    let household = try Household(
      creating: phrase, keys: DeviceKeys(entropy: &entropy), name: try Self.deviceName(name),
      entropy: &entropy)
    _ = try HouseholdDirectory.create(
      stateDirectory: place.stateDirectory, household: household, machineID: MachineFacts.machineID(),
      entropy: &entropy)
    return Creation(phrase: phrase, household: household, place: place)
  }

  /// Refuses early when this device has a household already.
  package func requireNone() throws {
    do {
      let directory = try open(.reading)
      throw HouseholdStorageFailure.alreadyThere(path: directory.path)
    } catch HouseholdStorageFailure.noHousehold {
      return
    }
  }

  /// Keeps a household that this device has just joined.
  package func keep(_ household: Household) throws(HouseholdStorageFailure) {
    var entropy = SystemEntropy()
    _ = try HouseholdDirectory.create(
      stateDirectory: place.stateDirectory, household: household, machineID: MachineFacts.machineID(),
      entropy: &entropy)
  }

  /// The household as it lies on the disk.
  package func household() throws(HouseholdStorageFailure) -> Household { try open(.reading).household() }

  /// What `hearth peers` can say without the daemon.
  package func storedReport() throws(HouseholdStorageFailure) -> HouseholdReport {
    let directory = try open(.reading)
    var addresses: [DeviceID: NetworkAddress] = [:]
    for peer in (try? directory.knownPeers()) ?? [] { addresses[peer.device] = peer.addresses.first }
    let words = PauseRecord(stateDirectory: place.stateDirectory).words
    return HouseholdReport(
      stored: try directory.household(), addresses: addresses,
      pause: DevicePause(words: words, pausesOnBattery: false).reason)
  }

  /// Changes the household and stores it; the other devices learn of it at the next `hearth up`.
  package func change<Value>(_ body: (inout Household, inout SystemEntropy) throws -> Value) throws -> Value {
    let directory = try open(.exclusive)
    var household = try directory.household()
    var entropy = SystemEntropy()
    let value = try body(&household, &entropy)
    try directory.store(household.log)
    return value
  }

  /// Forgets the household on this device without telling anybody.
  package func erase() throws {
    try HouseholdDirectory.erase(stateDirectory: place.stateDirectory)
  }

  /// The name that a person gave, or the host's.
  package static func deviceName(_ given: String?) throws(TrustFailure) -> String {
    guard let given else { return MachineFacts.hostName() }
    guard isValidDeviceName(given) else { throw .invalidName(byteCount: given.utf8.count) }
    return given
  }

  private func open(_ access: HouseholdDirectory.Access) throws(HouseholdStorageFailure) -> HouseholdDirectory
  {
    try HouseholdDirectory.open(
      stateDirectory: place.stateDirectory, machineID: MachineFacts.machineID(), access: access)
  }
}
