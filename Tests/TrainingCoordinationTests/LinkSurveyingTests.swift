import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination

/// The device that would lead next knows its links ahead: from the leader's word, and else from a survey of its own, however
/// that ends.
@Suite struct LinkSurveyingTests {
  /// Three devices of four are up, and run; device 0 leads, device 1 is its deputy.
  private func running(
    _ up: Int = 3, with surveying: JobWorld.Surveying? = nil, leadersAreOld: Bool = true
  ) -> JobWorld {
    var world = JobWorld(count: 4, roster: up, seed: 800)
    world.leadersAreOld = leadersAreOld
    world.steps = 1_000_000
    for own in up..<4 { world.crash(own) }
    world.surveying[1] = surveying
    world.submit()
    world.run(30) { $0.furthest > 0 }
    return world
  }

  private func gaps(_ world: JobWorld, _ own: Int) -> [Duration] {
    zip(world.nodes[own].surveys, world.nodes[own].surveys.dropFirst()).map { $0.duration(to: $1) }
  }

  @Test("Devices take their links to be as the way by the leader, and nobody measures any")
  func word() {
    var world = running(leadersAreOld: false)
    world.run(300)
    #expect(world.nodes.map(\.surveys.count) == [0, 0, 0, 0])
    // Measured by device 0: 1200 bytes a second and 1 ms to device 1, 1300 and 2 ms to device 2.
    func links(_ other: Int, _ rate: UInt64, _ milliseconds: Int) -> [DeviceLink] {
      let between = DeviceLink(to: world.id(other), bytesPerSecond: 1200, roundTrip: .milliseconds(3))
      let toLeader = DeviceLink(
        to: world.id(0), bytesPerSecond: rate, roundTrip: .milliseconds(milliseconds))
      return [toLeader, between].sorted { $0.device < $1.device }
    }
    #expect(world.nodes[1].links == links(2, 1200, 1))
    #expect(world.nodes[2].links == links(1, 1300, 2))
    #expect(world.nodes.map(\.linksTold) == [0, 1, 1, 0])
  }

  @Test("Who leads after a loss tells the others of the links that it knows by the leader before")
  func passedOn() {
    var world = running(4, leadersAreOld: false)
    world.run(5)
    world.crash(0)
    world.run(20)
    #expect(world.nodes.map(\.surveys.count) == [0, 0, 0, 0])
    #expect(Set(world.nodes[2].links.map(\.device)) == [world.id(1), world.id(3)])
    #expect(world.nodes.map(\.linksTold) == [0, 1, 2, 2])
  }

  @Test("The leader's link to a device that comes is measured once, and told")
  func comer() {
    var world = running(leadersAreOld: false)
    world.joining = .keep("it does not pay")
    world.run(20)
    world.restart(3)
    world.run(40)
    #expect(world.nodes.map(\.surveys.count) == [1, 0, 0, 0])
    #expect(world.nodes[1].links.contains { $0.device == world.id(3) && $0.bytesPerSecond == 1200 })
  }

  @Test("A deputy that was restarted is told again")
  func toldAgain() {
    var world = running(leadersAreOld: false)
    world.run(5)
    world.crash(1)
    world.run(1)
    world.restart(1)
    world.run(60)
    #expect(!world.nodes[1].links.isEmpty && world.nodes[1].surveys.isEmpty)
  }

  @Test("Links that somebody tells who does not lead are dropped")
  func stranger() throws {
    var world = running()
    world.run(5)
    let stamp = try #require(world.nodes[1].coordinator).position
    let dropped = try #require(world.nodes[1].coordinator).dropped
    let before = world.nodes[1].links
    let links = [DeviceLink(to: world.id(1), bytesPerSecond: 1, roundTrip: .zero)]
    world.handle(.message(JobMessage(stamp, .links(links)), from: world.id(2)), 1)
    #expect(world.nodes[1].coordinator?.dropped == dropped + 1 && world.nodes[1].links == before)
  }

  @Test(
    "Without the leader's word the deputy measures its links once while nothing changes, and nobody else does"
  )
  func once() {
    var world = running()
    world.run(300)
    #expect(world.nodes.map(\.surveys.count) == [0, 1, 0, 0])
  }

  @Test("A survey that fails is tried again, after a wait that doubles")
  func failure() {
    var world = running(with: .failure)
    world.run(100)
    let waits = gaps(world, 1)
    #expect(waits.count == 3)
    for (wait, seconds) in zip(waits, [10, 20, 40]) {
      #expect(wait >= .seconds(seconds) && wait <= .seconds(seconds) + .milliseconds(200))
    }
    world.surveying[1] = nil
    world.run(200)
    let count = world.nodes[1].surveys.count
    world.run(700)
    #expect(count > 4 && world.nodes[1].surveys.count == count)
  }

  @Test("A survey of which nothing is heard counts as lost, and is tried again")
  func silence() {
    var world = running(with: .silence)
    world.run(85)
    #expect(world.nodes[1].surveys.count == 1)
    world.surveying[1] = nil
    world.run(30)
    #expect(world.nodes[1].surveys.count == 2)
    world.run(700)
    #expect(world.nodes[1].surveys.count == 2)
  }

  @Test("A late answer to a lost survey is dropped")
  func late() {
    var world = running(with: .silence)
    world.run(98)
    let dropped = world.nodes[1].coordinator?.dropped ?? 0
    world.handle(.surveyed(request: 1, []), 1)
    #expect(world.nodes[1].coordinator?.dropped == dropped + 1)
    world.surveying[1] = nil
    world.run(30)
    #expect(world.nodes[1].surveys.count == 2)
  }

  @Test("A link that a survey left out is measured again")
  func gap() {
    var world = running(with: .without([2]))
    world.run(10)
    world.surveying[1] = nil
    world.run(20)
    #expect(world.nodes[1].surveys.count == 2)
    #expect(gaps(world, 1).allSatisfy { $0 >= .seconds(10) })
  }

  @Test(
    "A device that comes has its link measured by the leader while it prepares itself, and by the deputy then"
  )
  func newcomer() {
    var world = running()
    world.joining = .keep("it does not pay")
    world.run(20)
    #expect(world.nodes.map(\.surveys.count) == [0, 1, 0, 0])
    world.stuck[3] = "prepare"
    world.restart(3)
    let start = world.now
    world.run(1)
    #expect(world.nodes.map(\.surveys.count) == [1, 1, 0, 0])
    #expect(world.nodes[0].surveys.allSatisfy { start.duration(to: $0) <= .milliseconds(100) })
    world.stuck[3] = nil
    world.crash(3)
    world.run(20)
    world.restart(3)
    world.run(40)
    #expect(world.nodes.map(\.surveys.count) == [2, 2, 0, 0])
  }

  @Test("A device that comes into reach is offered the job at once")
  func offer() {
    var world = running()
    for _ in 0..<5 {
      world.run(3)
      world.nodes[3].disk = nil
      world.nodes[3].isUp = true
      let start = world.now
      world.run(5) { $0.nodes[3].coordinator != nil }
      #expect(start.duration(to: world.now) <= .milliseconds(150))
      world.crash(3)
      world.run(12)
    }
  }

  @Test("A device that keeps coming and going does not keep its links measured without a rest")
  func flapping() {
    var world = running()
    world.joining = .keep("it does not pay")
    for _ in 0..<40 {
      world.restart(3)
      world.run(2)
      world.crash(3)
      world.run(1)
    }
    #expect(world.nodes[1].surveys.count <= 13)
    #expect(gaps(world, 1).allSatisfy { $0 >= .seconds(10) })
  }

  @Test("Whoever becomes the deputy after a loss measures its links then")
  func successor() {
    var world = running(4)
    world.run(10)
    #expect(world.nodes.map(\.surveys.count) == [0, 1, 0, 0])
    world.crash(0)
    world.run(20)
    #expect(world.nodes.map(\.surveys.count) == [0, 1, 1, 0])
  }
}
