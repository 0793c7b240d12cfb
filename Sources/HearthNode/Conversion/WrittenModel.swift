import HearthStorage
import LanguageModels

/// A model directory that is about to be written: its weights' layout, its configuration, and what it keeps of another.
struct WrittenModel {
  /// Where each tensor lies in `model.safetensors`.
  let layout: SafetensorsLayout
  /// The bytes of `config.json`.
  let configuration: [UInt8]
  /// The model whose files are kept.
  let source: ModelFolder
  /// Files of the source that are copied when they are there.
  let keptFiles: [String]

  /// Writes all files; the configuration comes last, since a directory without one is no model.
  ///
  /// - Parameter fill: writes a range of a tensor's elements, row-major.
  /// - Throws: `RunFailure.inputOutput` before anything is written when the disk has no room for the weights.
  func write(
    to output: String,
    fill: (SafetensorsEntry, Range<Int>, UnsafeMutableBufferPointer<Float>) throws -> Void
  ) throws {
    try createDirectory(output)
    let free = try freeDiskBytes(output)
    guard free > layout.byteCount else {
      throw RunFailure.inputOutput(
        path: output,
        detail: "the weights need \(ByteCount(layout.byteCount)) and \(ByteCount(free)) are free; "
          + "make room or choose another disk with --output")
    }
    for name in keptFiles {
      guard let region = try source.region(named: name) else { continue }
      try AtomicFile.write(Array(region.bytes), to: "\(output)/\(name)")
    }
    var weights = try AtomicFile("\(output)/model.safetensors")
    try streamSafetensors(layout) { (entry, range, part) throws(any Error) in
      try fill(entry, range, part)
    } sink: { (piece) throws(any Error) in
      try weights.append(piece)
    }
    try weights.commit()
    try AtomicFile.write(configuration, to: "\(output)/config.json")
  }
}
