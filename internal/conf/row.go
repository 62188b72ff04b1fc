// SPDX-License-Identifier: GPL-2.0-or-later

package conf

// A row is one variable that files may set, and how it is read.
type row struct {
	name string
	// read reads the values of the variable, by index, into the field that the
	// row is for. The error names the variable.
	read func(v map[int]string) error
}

// rowNames returns the names of the variables of rows.
func rowNames(rows []row) []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// text is a row for a variable that is taken as it is.
func text(name string, to *string) row {
	return row{name, func(v map[int]string) error {
		*to = v[0]
		return nil
	}}
}
