/// Where Hearth keeps what belongs to this device and to no checkout.
package enum StateDirectory {
  /// HEARTH_HOME, else hearth in XDG_STATE_HOME, else ~/.local/state/hearth (XDG base directories, 0.8).
  ///
  /// nil when the environment has no HOME either.
  package static func path(environment: [String: String]) -> String? {
    if let own = environment["HEARTH_HOME"], !own.isEmpty { return own }
    // The specification says that a relative path here is to be ignored.
    if let state = environment["XDG_STATE_HOME"], state.hasPrefix("/") { return state + "/hearth" }
    guard let home = environment["HOME"], !home.isEmpty else { return nil }
    return home + "/.local/state/hearth"
  }
}
