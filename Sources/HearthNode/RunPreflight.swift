import Glibc

/// The path from the root, for records that are read from another directory.
package func absolutePath(_ path: String) -> String {
  guard !path.hasPrefix("/"), let current = getcwd(nil, 0) else { return path }
  defer { free(current) }
  let directory = String(cString: current)
  return (directory == "/" ? "" : directory) + "/" + path
}

/// Looks at the paths of a request before any work, so that a typing error costs no minutes.
package enum RunPreflight {
  /// Checks every path of a training request.
  package static func check(_ request: TrainRequest) throws(RunFailure) {
    try checkModelDirectory(request.modelDirectory)
    try checkInputFile(request.dataFile, role: "data file")
    if let file = request.validationFile { try checkInputFile(file, role: "validation file") }
    try checkNewDirectory(request.output)
    if let cache = request.cacheDirectory { try checkWritableDirectory(cache) }
  }

  /// Requires a readable directory with a config.json.
  package static func checkModelDirectory(_ path: String) throws(RunFailure) {
    try checkInputDirectory(path, role: "model directory")
    guard access(path + "/config.json", R_OK) == 0 else {
      throw .missingInput(
        role: "model directory", path: path,
        detail: "has no readable config.json; pass a directory as Hugging Face lays it out "
          + "(config.json, model.safetensors, tokenizer files)")
    }
  }

  /// Requires a readable directory.
  package static func checkInputDirectory(_ path: String, role: String) throws(RunFailure) {
    switch kind(of: path) {
    case .missing(let error): throw .missingInput(role: role, path: path, detail: error)
    case .file: throw .missingInput(role: role, path: path, detail: "is a file; a directory is needed")
    case .directory: break
    }
    guard access(path, R_OK | X_OK) == 0 else {
      throw .missingInput(role: role, path: path, detail: errorText())
    }
  }

  /// Requires a readable file (a pipe is fine).
  package static func checkInputFile(_ path: String, role: String) throws(RunFailure) {
    switch kind(of: path) {
    case .missing(let error): throw .missingInput(role: role, path: path, detail: error)
    case .directory: throw .missingInput(role: role, path: path, detail: "is a directory; a file is needed")
    case .file: break
    }
    guard access(path, R_OK) == 0 else { throw .missingInput(role: role, path: path, detail: errorText()) }
  }

  /// Requires that a directory can be made at `path`, or is there, empty and writable.
  package static func checkNewDirectory(_ path: String) throws(RunFailure) {
    try checkWritableDirectory(path)
    if case .directory = kind(of: path), !isEmptyDirectory(path) {
      throw .outputOccupied(path: path, detail: "is not empty")
    }
  }

  /// Requires that `path` is a writable directory, or that one can be made there.
  package static func checkWritableDirectory(_ path: String) throws(RunFailure) {
    let existing = nearestExisting(path)
    guard case .directory = kind(of: existing) else {
      throw .cannotCreateOutput(path: path, detail: "'\(existing)' is not a directory")
    }
    // Only making something tells for sure: root passes access() even where nothing can be made.
    var probe = Array("\(existing)/.hearth-probe-XXXXXX".utf8CString)
    guard mkdtemp(&probe) != nil else {
      throw .cannotCreateOutput(path: path, detail: "'\(existing)': \(String(cString: strerror(errno)))")
    }
    rmdir(probe)
  }

  /// The longest leading part of `path` that exists.
  package static func nearestExisting(_ path: String) -> String {
    var current = path
    while case .missing = kind(of: current) {
      while current.hasSuffix("/") && current.count > 1 { current.removeLast() }
      guard let slash = current.lastIndex(of: "/") else { return "." }
      if slash == current.startIndex { return "/" }
      current = String(current[..<slash])
    }
    return current
  }

  private enum PathKind {
    case missing(String)
    case file
    case directory
  }

  private static func kind(of path: String) -> PathKind {
    var status = stat()
    guard stat(path, &status) == 0 else { return .missing(errorText()) }
    return status.st_mode & S_IFMT == S_IFDIR ? .directory : .file
  }

  private static func isEmptyDirectory(_ path: String) -> Bool {
    guard let directory = opendir(path) else { return true }
    defer { closedir(directory) }
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { return false }
    }
    return true
  }

  private static func errorText() -> String {
    errno == ENOENT ? "does not exist; check the path" : String(cString: strerror(errno))
  }
}
