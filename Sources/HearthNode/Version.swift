/// The version of this program, as `hearth --version` and `hearth doctor` tell it.
package let hearthVersion = "0.1.0"
