import Collectives
package import NeuralNetworks

/// A step's ring without a job around it: to measure what it costs a device.
package struct RingExercise {
  private let ring: GradientRing
  private let links: JobLinks

  /// A ring of all devices of a channel.
  ///
  /// - Parameters:
  ///   - channel: between the devices.
  ///   - members: how many there are.
  ///   - count: how many sums a device has.
  package init(over channel: any JobChannel, members: Int, count: Int) {
    links = JobLinks(channel, devices: members)
    ring = GradientRing(
      members: Array(0..<members), selection: VectorSelection(whole: count), links: links)
  }

  /// Makes every device's sums the sums of all; all devices call it with the same number of the round.
  package func reduce(_ sums: any GradientSums, round: UInt64) throws(DistributedRunFailure) {
    try ring.reduce(sums, round: round)
  }

  /// Bytes that this device has sent so far.
  package var sentBytes: UInt64 { links.bytes.reduce(0) { $0 + $1.sent } }
}
