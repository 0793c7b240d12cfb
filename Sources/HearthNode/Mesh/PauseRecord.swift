import HearthStorage

/// That a person paused this device, on its disk: it must hold when the daemon or the machine starts anew.
struct PauseRecord: Sendable {
  private let path: String

  /// The record of a state directory.
  init(stateDirectory: String) { path = stateDirectory + "/pause" }

  /// The person's words, empty when none were given; nil when the device is not paused.
  ///
  /// A record that cannot be read pauses as well: a device that its person needs is not to be taken by a damaged file.
  var words: String? {
    do throws(FileFailure) {
      let bytes = try readWholeFile(path, limit: 2 * DevicePause.reasonBytes)
      return DevicePause.plain(String(decoding: bytes, as: UTF8.self))
    } catch {
      return error.isMissing ? nil : ""
    }
  }

  /// Keeps or removes the record; it survives a power cut from then on.
  func store(_ words: String?) throws(FileFailure) {
    if let words {
      try AtomicFile.write(Array((words + "\n").utf8), to: path, permissions: 0o600)
    } else {
      try removeFile(path)
    }
  }
}
