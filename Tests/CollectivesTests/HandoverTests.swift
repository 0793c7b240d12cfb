import Collectives
import Determinism
import Testing

@Suite("What devices hand over when a plan epoch begins")
struct HandoverTests {
  /// Three leaves with gaps between them.
  private static let leaves = VectorSelection([0..<5, 16..<40, 48..<50])
  private static let units = 7

  private func inventory(_ states: [(Int, [Range<Int>])], _ units: [Int] = []) -> Inventory {
    Inventory(
      states: states.map { HeldState(step: $0.0, selection: VectorSelection($0.1)) },
      units: UnitSet(count: Self.units, units))
  }

  private func need(_ ranges: [Range<Int>] = leaves.ranges, _ units: [Int] = []) -> HandoverNeed {
    HandoverNeed(selection: VectorSelection(ranges), units: UnitSet(count: Self.units, units))
  }

  private func handover(_ inventories: [Inventory], _ needs: [HandoverNeed]) throws(HandoverFailure)
    -> Handover
  {
    try Handover(inventories, leaves: Self.leaves, totalSteps: 100) { _ in needs }
  }

  @Test("a fresh job begins at step 0: nothing is sent, and whoever needs activations computes them")
  func fresh() throws {
    let made = try handover([inventory([]), inventory([])], [need(), need([], [2, 3])])
    #expect(made.start == 0 && made.states.isEmpty && made.units.isEmpty)
    #expect(made.missing.units == [2, 3])
    #expect(made.missing(computedBy: 4) { $0 == 3 ? [1, 4] : [0, 1] } == [3])
  }

  @Test("the newest step counts whose every leaf somebody has; who is ahead takes the older state")
  func newest() throws {
    // Device 0 has applied step 9, device 1, the other stage, has not.
    let made = try handover(
      [
        inventory([(9, [0..<5, 16..<30]), (8, [0..<5, 16..<30])]), inventory([(8, [30..<40, 48..<50])]),
        inventory([(10, [0..<5])]),
      ], [need(), need([30..<40]), need()])
    #expect(made.start == 8)
    #expect(
      made.states == [
        Handover.StateTransfer(from: 1, to: 0, ranges: [30..<40, 48..<50]),
        Handover.StateTransfer(from: 0, to: 2, ranges: [0..<5, 16..<30]),
        Handover.StateTransfer(from: 1, to: 2, ranges: [30..<40, 48..<50]),
      ])
  }

  @Test("a step of which one leaf is lost is not gone on from")
  func lostLeaf() throws {
    let made = try handover(
      [inventory([(9, [0..<5, 16..<40]), (4, Self.leaves.ranges)])], [need()])
    #expect(made.start == 4 && made.states.isEmpty)
    #expect(try handover([inventory([(9, [0..<5, 16..<40])])], [need()]).start == 0)
  }

  @Test("units come from the device that gives least so far, and each one once")
  func leastBusy() throws {
    let made = try handover(
      [inventory([], [0, 1, 2, 3]), inventory([], [2, 3]), inventory([])],
      [need(), need([], [0]), need([], [0, 1, 2, 3, 4])])
    #expect(
      made.units == [
        Handover.UnitTransfer(from: 0, to: 1, units: [0]),
        Handover.UnitTransfer(from: 0, to: 2, units: [0, 1]),
        Handover.UnitTransfer(from: 1, to: 2, units: [2, 3]),
      ])
    #expect(made.missing.units == [4])
  }

  @Test("inventories that do not fit the job are refused, and named")
  func malformed() {
    func expect(_ failure: HandoverFailure, _ inventories: [Inventory]) {
      #expect(throws: failure) { try handover(inventories, inventories.map { _ in need() }) }
    }
    expect(.unknownStep(place: 1, step: 101), [inventory([]), inventory([(101, [])])])
    expect(.unknownStep(place: 0, step: -1), [inventory([(-1, [])])])
    expect(.foreignRange(place: 0, 40..<51), [inventory([(1, [0..<5, 40..<51])])])
    expect(.foreignUnits(place: 1, units: 3, expected: 7), [inventory([]), Inventory(units: 3)])
    expect(
      .manyStates(place: 0, states: 17), [inventory((0..<17).map { ($0, []) })])
    expect(.manyPlaces(4097), Array(repeating: inventory([]), count: 4097))
    #expect(throws: HandoverFailure.needs(1, places: 2)) {
      try handover([inventory([]), inventory([])], [need()])
    }
    #expect(throws: HandoverFailure.foreignRange(place: 0, 5..<16)) {
      try handover([inventory([])], [need([0..<40])])
    }
  }

  @Test(
    "whatever is held, every need is met exactly once by who has it, or is missing everywhere",
    arguments: 0..<200)
  func properties(seed: Int) throws {
    var generator = SeededGenerator(seed: UInt64(seed))
    func below(_ limit: Int) -> Int { Int(generator.uniform(below: limit)) }
    let places = 1 + below(6)
    let count = below(90)
    func ranges() -> [Range<Int>] {
      Self.leaves.ranges.compactMap { leaf in
        let low = leaf.lowerBound + below(leaf.count + 1)
        let range = low..<min(leaf.upperBound, low + below(leaf.count + 1))
        return below(3) == 0 ? leaf : range.isEmpty ? nil : range
      }
    }
    func set() -> UnitSet { UnitSet(count: count, (0..<count).filter { _ in below(3) == 0 }) }
    let inventories = (0..<places).map { _ in
      Inventory(
        states: (0..<below(4)).map { _ in HeldState(step: below(4), selection: VectorSelection(ranges())) },
        units: set())
    }
    let needs = (0..<places).map { _ in HandoverNeed(selection: VectorSelection(ranges()), units: set()) }
    let made = try Handover(inventories, leaves: Self.leaves, totalSteps: 3) { _ in needs }
    #expect(try Handover(inventories, leaves: Self.leaves, totalSteps: 3) { _ in needs } == made)

    func holds(_ place: Int, _ element: Int, _ step: Int) -> Bool {
      inventories[place].states.contains { $0.step == step && $0.selection.position(of: element) != nil }
    }
    let elements = Self.leaves.ranges.flatMap { Array($0) }
    func isWhole(_ step: Int) -> Bool {
      step == 0 || elements.allSatisfy { element in (0..<places).contains { holds($0, element, step) } }
    }
    #expect(made.start == (0...3).last(where: isWhole))
    for place in 0..<places {
      let sent = made.states.filter { $0.to == place }.flatMap { transfer in
        transfer.ranges.flatMap { range in range.map { (transfer.from, $0) } }
      }
      let wanted =
        made.start == 0
        ? []
        : elements.filter {
          needs[place].selection.position(of: $0) != nil && !holds(place, $0, made.start)
        }
      #expect(sent.map(\.1).sorted() == wanted)
      #expect(sent.allSatisfy { holds($0.0, $0.1, made.start) && $0.0 != place })
      let units = made.units.filter { $0.to == place }.flatMap { transfer in
        transfer.units.map { (transfer.from, $0) }
      }
      let lacks = needs[place].units.units.filter { !inventories[place].units.contains($0) }
      #expect(units.map(\.1).sorted() == lacks.filter { !made.missing.contains($0) })
      #expect(units.allSatisfy { inventories[$0.0].units.contains($0.1) })
    }
    for unit in 0..<count {
      let isNeeded = needs.contains { $0.units.contains(unit) }
      let isHeld = inventories.contains { $0.units.contains(unit) }
      #expect(made.missing.contains(unit) == (isNeeded && !isHeld))
    }
  }

  @Test("long vectors are shared among all who have them")
  func shares() throws {
    let long = VectorSelection([0..<8 * Handover.share])
    let whole = Inventory(states: [HeldState(step: 5, selection: long)], units: UnitSet(count: 0))
    let made = try Handover(
      [whole, whole, whole, whole, Inventory(units: 0)], leaves: long, totalSteps: 5
    ) { _ in Array(repeating: HandoverNeed(selection: long, units: UnitSet(count: 0)), count: 5) }
    let given = made.states.map { $0.ranges.reduce(0) { $0 + $1.count } }
    #expect(made.states.map(\.from) == [0, 1, 2, 3] && Set(given) == [2 * Handover.share])
  }

  @Test(
    "a gathering comes at fixed steps and at the start, rarer when the state is larger, never rarer than every 64 steps"
  )
  func gatherings() {
    let small = StepBoundary(stateBytes: 1 << 20)
    #expect((0...20).filter { small.gathers(after: $0, start: 3) } == [3, 8, 16])
    #expect(StepBoundary(stateBytes: 30 << 20).interval == 30)
    let huge = StepBoundary(stateBytes: 1 << 34)
    #expect(huge.interval == 64 && !huge.gathersWhole && small.gathersWhole)
  }

  @Test("a set of units is its bits, and nothing else makes one")
  func sets() {
    var set = UnitSet(count: 70, [0, 63, 64, 69])
    #expect(set.words == [0x8000_0000_0000_0001, 0x21])
    #expect(set.units == [0, 63, 64, 69] && set.members == 4 && !set.contains(70))
    #expect(UnitSet(count: 70, words: set.words) == set)
    #expect(UnitSet(count: 70, words: [0, 1 << 6]) == nil && UnitSet(count: 70, words: [0]) == nil)
    set.subtract(UnitSet(count: 70, [63]))
    set.formUnion(UnitSet(count: 70, [1]))
    #expect(set.units == [0, 1, 64, 69])
  }
}
