package engine

import "golang.org/x/sys/unix"

// uname returns the release and the architecture of the running kernel.
func uname() (release, arch string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}
