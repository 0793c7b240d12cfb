import Foundation

/// The files of the checkout that these tests were compiled from.
struct Checkout {
  static let root = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

  /// Paths from the root, sorted: what git tracks or would track, or, outside a clone, what lies there.
  static let paths: [String] = (trackedPaths() ?? walkedPaths()).sorted()

  /// All text files.
  static let files: [SourceFile] = paths.compactMap { path in
    guard textExtensions.contains(URL(fileURLWithPath: path).pathExtension),
      let data = try? Data(contentsOf: root.appendingPathComponent(path)),
      let text = String(data: data, encoding: .utf8)
    else { return nil }
    return SourceFile(path, text)
  }

  static let swiftSources: [ParsedSource] = files.filter(\.isSwift).map(ParsedSource.init)
  static let cSources: [ParsedSource] = files.filter { $0.isC && $0.isInSources }.map(ParsedSource.init)

  static func file(_ path: String) throws -> SourceFile {
    SourceFile(path, try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8))
  }

  static func byteCount(_ path: String) -> Int {
    let attributes = try? FileManager.default.attributesOfItem(
      atPath: root.appendingPathComponent(path).path)
    return (attributes?[.size] as? Int) ?? 0
  }

  /// Endings of text files; scripts have none.
  private static let textExtensions: Set<String> = [
    "swift", "c", "cpp", "h", "modulemap", "md", "py", "sh", "json", "txt", "csv", "tsv", "jsonl", "",
  ]

  private static func trackedPaths() -> [String]? {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [
      "git", "-C", root.path, "ls-files", "-z", "--cached", "--others", "--exclude-standard",
    ]
    let output = Pipe()
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return nil }
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    guard process.terminationStatus == 0, !data.isEmpty else { return nil }
    let paths = data.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    // A file that is deleted and not yet committed is still listed.
    return paths.filter { FileManager.default.fileExists(atPath: root.appendingPathComponent($0).path) }
  }

  private static func walkedPaths() -> [String] {
    guard let walker = FileManager.default.enumerator(atPath: root.path) else { return [] }
    var paths: [String] = []
    for case let path as String in walker {
      let name = URL(fileURLWithPath: path).lastPathComponent
      if name.hasPrefix(".build") || [".git", ".demo", "__pycache__"].contains(name) {
        walker.skipDescendants()
      } else if walker.fileAttributes?[.type] as? FileAttributeType == .typeRegular {
        paths.append(path)
      }
    }
    return paths
  }
}

/// The violations as text, one a line, for a failure message.
func report(_ violations: [Violation]) -> String {
  violations.map(\.description).joined(separator: "\n")
}
