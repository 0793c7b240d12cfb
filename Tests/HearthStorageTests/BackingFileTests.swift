import ComputeRuntime
import Foundation
import HearthStorage
import NeuralNetworks
import Testing

@Suite("Memory that a file holds")
struct BackingFileTests {
  private static let floats = 16 << 20

  /// A tree of 64 MiB whose second quarter has values.
  private static func tree() -> ParameterTree {
    let tree = ParameterTree(
      trainable: [ParameterShape("leaf", rows: 1, columns: floats, kind: .weight)]) { _, _ in }
    for index in floats / 4..<floats / 2 { tree.vector[index] = Float(index) }
    return tree
  }

  private static func spill(_ tree: ParameterTree, in directory: String) throws {
    try tree.back { try BackingFile(of: $0, in: directory).release }
  }

  // What a process has in memory is measured in one of its own: here other tests come and go.
  @Test("values move to a file in place, pages that are released leave memory, and nothing is lost")
  func spilled() async {
    await #expect(processExitsWith: .success) {
      let directory = try TemporaryDirectory()
      let tree = BackingFileTests.tree()
      let (floats, quarter) = (BackingFileTests.floats, BackingFileTests.floats / 4 * 4)
      let before = try #require(ProcessMemory.current())
      try BackingFileTests.spill(tree, in: directory.path)
      let after = try #require(ProcessMemory.current())
      #expect(after.anonymous < before.anonymous - quarter / 2)
      // The file has no name that anybody could find, open or forget.
      #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
      for index in floats / 2..<floats { tree.vector[index] = -Float(index) }
      let filled = try #require(ProcessMemory.current())
      #expect(filled.mapped > after.mapped + quarter)
      #expect(filled.anonymous < before.anonymous - quarter / 2)
      tree.releasePages(floats / 2..<floats)
      let released = try #require(ProcessMemory.current())
      #expect(released.mapped < filled.mapped - quarter)
      var isSame = true
      for index in 0..<floats {
        let expected: Float = index < floats / 4 ? 0 : index < floats / 2 ? Float(index) : -Float(index)
        isSame = isSame && tree.vector[index] == expected
      }
      #expect(isSame)
    }
  }

  @Test("a whole pass in pieces keeps no more of the file in memory than a piece")
  func pieces() async {
    await #expect(processExitsWith: .success) {
      let directory = try TemporaryDirectory()
      let tree = BackingFileTests.tree()
      try BackingFileTests.spill(tree, in: directory.path)
      let before = try #require(ProcessMemory.current())
      var most = 0
      var sum = 0.0
      tree.forEachPiece { piece in
        for value in piece.bindMemory(to: Float.self) { sum += Double(value) }
        most = max(most, ProcessMemory.current()?.mapped ?? Int.max)
      }
      let (first, end) = (BackingFileTests.floats / 4, BackingFileTests.floats / 2)
      let expected = (first..<end).reduce(0.0) { $0 + Double(Float($1)) }
      #expect(sum == expected)
      #expect(most < before.mapped + 16 << 20)
    }
  }

  @Test("a file that exists takes the place of memory and is not copied; one that is too short is refused")
  func existing() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/values"
    let values = (0..<5000).map { Float($0) }
    try values.withUnsafeBytes { try Data($0).write(to: URL(fileURLWithPath: path)) }
    let tree = ParameterTree(
      trainable: [ParameterShape("leaf", rows: 1, columns: 5000, kind: .weight)]
    ) { _, leaf in leaf.update(repeating: 7) }
    let short = directory.path + "/short"
    try Data(count: 4096).write(to: URL(fileURLWithPath: short))
    #expect(throws: FileFailure.self) {
      try tree.back { try BackingFile(short, inPlaceOf: $0).release }
    }
    #expect(tree.vector[4999] == 7)
    try tree.back { try BackingFile(path, inPlaceOf: $0).release }
    var read: [Float] = []
    tree.forEachPiece { read += $0.bindMemory(to: Float.self) }
    #expect(Array(read.prefix(5000)) == values)
    #expect(read.dropFirst(5000).allSatisfy { $0 == 0 })
  }

  @Test("memory stays as it was when there is no directory for its file")
  func noDirectory() throws {
    let tree = ParameterTree(
      trainable: [ParameterShape("leaf", rows: 1, columns: 100, kind: .weight)]
    ) { _, leaf in leaf.update(repeating: 7) }
    #expect(throws: FileFailure.self) { try Self.spill(tree, in: "/nowhere/at/all") }
    #expect((0..<100).allSatisfy { tree.vector[$0] == 7 })
  }
}
