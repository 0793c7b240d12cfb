import Determinism
import MeshSimulator
import Testing

@Suite struct SimulatedDiskTests {
  private func counter(_ file: SimulatedFile?) -> UInt32? {
    if case .counter(let value)? = file { value } else { nil }
  }

  @Test func whatWasNotSyncedIsReadUntilPowerIsLost() {
    var disk = SimulatedDisk()
    disk.write(.counter(1), to: "boot", at: .zero)
    disk.sync("boot")
    disk.write(.counter(2), to: "boot", at: .zero)
    #expect(counter(disk.read("boot")) == 2)
    #expect(counter(disk.durable("boot")) == 1)
    disk.losePower(at: MonotonicInstant(nanoseconds: 1_000_000_000))
    #expect(counter(disk.read("boot")) == 1)
  }

  @Test func theSystemWritesBackByItselfAfterThirtySeconds() {
    var disk = SimulatedDisk()
    disk.write(.counter(1), to: "boot", at: .zero)
    disk.losePower(at: MonotonicInstant(nanoseconds: 30_000_000_000))
    #expect(counter(disk.read("boot")) == 1)
  }

  @Test func syncingOneFileSaysNothingOfAnother() {
    var disk = SimulatedDisk()
    disk.write(.counter(1), to: "one", at: .zero)
    disk.write(.counter(2), to: "other", at: .zero)
    disk.sync("one")
    disk.losePower(at: .zero)
    #expect(counter(disk.read("one")) == 1)
    #expect(counter(disk.read("other")) == nil)
  }
}
