import Glibc

/// Whether a directory is a place for keys: owned by this user, closed to all others, outside of every checkout.
enum StateExamination {
  /// Checks a directory that may not be there yet; its missing parts are made later, closed to others.
  static func check(directory path: String) throws(HouseholdStorageFailure) {
    try checkOutsideWorkTrees(path)
    try check(path, kind: S_IFDIR, expected: "directory")
  }

  /// Checks a file inside, if it is there.
  static func check(file path: String) throws(HouseholdStorageFailure) {
    try check(path, kind: S_IFREG, expected: "regular file")
  }

  /// Whether something is at the path.
  static func exists(_ path: String) -> Bool {
    var status = stat()
    return lstat(path, &status) == 0
  }

  private static func check(
    _ path: String, kind: mode_t, expected: String
  ) throws(HouseholdStorageFailure) {
    var status = stat()
    // Not through symbolic links: where one leads may change between this check and the use.
    guard lstat(path, &status) == 0 else {
      if errno == ENOENT { return }
      throw .file(.system(operation: "examine", path: path, code: errno))
    }
    guard status.st_mode & S_IFMT == kind else { throw .file(.wrongKind(path: path, expected: expected)) }
    guard status.st_uid == geteuid() else {
      throw .otherOwner(path: path, owner: status.st_uid, expected: geteuid())
    }
    let mode = status.st_mode & 0o7777
    guard mode & 0o077 == 0 else { throw .openToOthers(path: path, mode: mode) }
  }

  /// Refuses a path of which any part lies in a directory with `.git` (a directory, or a file in linked trees).
  private static func checkOutsideWorkTrees(_ path: String) throws(HouseholdStorageFailure) {
    guard var place = existingPart(of: path) else {
      throw .file(.system(operation: "examine", path: path, code: errno))
    }
    while true {
      if exists(place == "/" ? "/.git" : "\(place)/.git") {
        throw .insideGitWorkTree(path: path, workTree: place)
      }
      if place == "/" { return }
      place = parentDirectory(place)
    }
  }

  /// The real path of the longest part that is there, without symbolic links.
  private static func existingPart(of path: String) -> String? {
    var part = path
    while true {
      if let real = realpath(part, nil) {
        defer { free(real) }
        return String(cString: real)
      }
      guard errno == ENOENT, part != "/", part != "." else { return nil }
      part = parentDirectory(part)
    }
  }
}
