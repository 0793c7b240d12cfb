import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import ParallelPlanner
import PipelineSchedules
import TrainingCoordination

/// Devices, jobs and plans that tests are made of.
enum JobFixture {
  /// Devices with their keys, ascending by name of device.
  static let devices: [DeviceKeys] = (0..<12).map { index in
    var entropy = SeededEntropy(seed: UInt64(1000 + index))
    return DeviceKeys(entropy: &entropy)
  }.sorted { $0.device < $1.device }

  static var ids: [DeviceID] { devices.map(\.device) }

  static func key(_ device: DeviceID) -> SigningPublicKey? {
    devices.first { $0.device == device }?.signing.publicKey
  }

  static let keys = Dictionary(uniqueKeysWithValues: devices.map { ($0.device, $0.signing.publicKey) })

  static func digest(_ value: UInt8) -> ContentDigest { ContentDigest(of: [value]) }

  static func specification(_ count: Int, owner: Int = 0, leader: Int = 0) -> JobSpecification {
    JobSpecification(
      id: JobID(1, 2), owner: ids[owner], name: "reviews", model: digest(1),
      modelFiles: BlobReference(digest: digest(2), byteCount: 300),
      package: BlobReference(digest: digest(3), byteCount: 4000), roster: Array(ids[0..<count]),
      leader: ids[leader], epochs: 3)
  }

  /// Data parallel on the first `count` places, two units each; `salt` tells plans apart.
  static func plan(_ count: Int, salt: Int64 = 0) -> Plan {
    Plan(
      mode: .hybrid, microBatches: 1,
      stages: [
        PlanStage(
          layers: 0..<4, members: (0..<count).map { StageMember(device: $0, units: 2, memoryBytes: 100) },
          times: StageTimes(forward: 10, backward: 20, reduction: 5))
      ], boundaries: [],
      cached: (0..<count).map { CachedMember(device: $0, units: 2, memoryBytes: 50, cacheBytes: 70) },
      predicted: PredictedTimes(
        step: 35, firstEpoch: 350, redistribution: 0, cachedStep: 9, cachedEpoch: 90, total: 530 + salt))
  }

  static func proposal(_ devices: [DeviceID], epoch: UInt64 = 1, salt: Int64 = 0) -> PlanProposal {
    PlanProposal(
      stamp: JobStamp(job: JobID(1, 2), term: 0, epoch: epoch), household: devices,
      plan: plan(devices.count, salt: salt))
  }

  /// A certificate with the votes of these devices.
  static func certificate(
    _ proposal: PlanProposal, roster: DecreeRoster, voters: [DeviceID]
  ) -> PlanCertificate {
    let ballot = Ballot(round: 1, proposer: roster.anchor)
    let message = PlanCertificate.message(
      of: AcceptedProposal(ballot: ballot, proposal: proposal), roster: roster)
    let votes = voters.sorted().map { voter in
      let keys = devices.first { $0.device == voter }!
      return PlanCertificate.Vote(device: voter, signature: keys.signing.sign(message))
    }
    return PlanCertificate(proposal: proposal, roster: roster, ballot: ballot, votes: votes)
  }
}
