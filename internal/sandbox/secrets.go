// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import "strings"

// Homes hold the files of people, Secrets what no build has a reason to read or to use.
// Both are to be hidden in a [World], unless somebody allows otherwise. Without
// /dev/pts, nobody can make pseudo terminals, which are few on a machine.
var (
	Homes   = []string{"/root", "/home"}
	Secrets = strings.Fields(`/run /dev/pts /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/ssh /etc/ssl/private
	/etc/pki/tls/private /etc/pki/akmods/private /etc/wireguard /etc/NetworkManager/system-connections /etc/krb5.keytab
	/etc/secureboot /usr/share/secureboot /var/lib/sbctl /var/lib/shim-signed/mok /var/mail /var/spool`)
)
