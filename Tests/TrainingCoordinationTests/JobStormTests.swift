import Determinism
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination

/// Faults of all kinds in random order, each seed its own; afterwards all is well again, and the job must end.
@Suite struct JobStormTests {
  private func fault(_ world: inout JobWorld, _ generator: inout SeededGenerator) {
    let own = generator.uniform(below: world.nodes.count)
    switch generator.uniform(below: 12) {
    case 0, 1, 2: if world.nodes[own].isUp { world.crash(own) }
    case 3, 4, 5: if !world.nodes[own].isUp { world.restart(own) }
    case 6: world.nodes[own].isFrozen.toggle()
    case 7: world.nodes[own].group = generator.uniform(below: 2)
    case 8: world.handle(.leave(reason: "a person needs it"), own)
    case 9: world.handle(.rejoin, own)
    case 10: world.brokenLink = generator.uniform(below: 2) == 0 ? nil : (own, (own + 1) % world.nodes.count)
    default:
      world.lossEvery = generator.uniform(below: 2) * 8
      world.repeatEvery = generator.uniform(below: 2) * 5
    }
  }

  private func heal(_ world: inout JobWorld) {
    (world.lossEvery, world.repeatEvery, world.brokenLink) = (0, 0, nil)
    for own in world.nodes.indices {
      world.nodes[own].isFrozen = false
      world.nodes[own].group = 0
      if !world.nodes[own].isUp { world.restart(own) }
      world.handle(.rejoin, own)
    }
  }

  @Test(
    "Whatever happens to devices, links and people, the job goes on when all is well, and ends",
    arguments: 0..<12)
  func storm(_ block: Int) {
    for number in 0..<10 {
      let seed = UInt64(1000 + 10 * block + number)
      var generator = SeededGenerator(seed: seed)
      let count = 2 + generator.uniform(below: 4)
      var world = JobWorld(
        count: count, roster: count, owner: generator.uniform(below: count),
        leader: generator.uniform(below: count), seed: seed)
      world.joining = [.direct, .learn, .keep("it does not pay")][generator.uniform(below: 3)]
      world.steps = 2500
      world.submit()
      world.run(generator.uniform(below: 6))
      for _ in 0..<25 {
        fault(&world, &generator)
        world.run(generator.uniform(below: 5))
      }
      heal(&world)
      let step = world.furthest
      let start = world.now
      world.run(60) { $0.furthest > step + 1 || $0.nodes.contains { $0.delivered > 0 } }
      #expect(start.duration(to: world.now) <= .seconds(45), "seed \(seed) stands still")
      world.steps = min(world.steps, world.furthest + 100)
      world.run(200) { $0.isFinished($0.nodes.indices) }
      #expect(world.isFinished(world.nodes.indices), "seed \(seed) does not end")
    }
  }
}
