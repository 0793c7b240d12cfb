import Foundation
import Testing

/// A fresh directory for one test, removed with all that is in it when the value goes.
final class TemporaryDirectory: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/hearth-test-XXXXXX".utf8CString)
    let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) != nil }
    try #require(made, "mkdtemp: errno \(errno)")
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  deinit {
    // A directory in /tmp that cannot be removed harms no test.
    try? FileManager.default.removeItem(atPath: path)
  }
}
