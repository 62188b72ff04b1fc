// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"context"
	"time"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/jobserver"
	"dkms-kernel-install/internal/resources"
)

// jobs says how the make of a build learns how many jobs to run.
type jobs struct {
	number int // see [build.Description]
	server *jobserver.Server
}

// share makes a jobserver for the builds, and sets what their tasks need of it and of
// memory. Without a limit on jobs there is none.
func (r *run) share(ctx context.Context, builds []*work, tasks []task) (*jobserver.Server, error) {
	var server *jobserver.Server
	if r.m.Settings.ParallelJobs != conf.NoLimit {
		version, err := r.m.Hashes.Compiler(ctx, "make")
		if err != nil {
			version = "" // each build will say what is wrong with make
		}
		if server, err = jobserver.New(r.m.Settings.ParallelJobs, version); err != nil {
			return nil, err
		}
	}
	for _, w := range builds {
		t := &tasks[w.task]
		w.jobs, t.tokens = jobsFor(w.item.Conf.Make, server)
		var memory int64
		t.cost, memory = r.costs.of(w.item.Name, w.item.Source)
		t.memory = memory * int64(t.tokens)
	}
	return server, nil
}

// expect tells which builds are to be made, and what they may take. A spare one most
// likely is not.
func (r *run) expect(builds []*work) {
	processors := min(resources.Processors(), r.m.Settings.ParallelJobs)
	var list []Expected
	for _, w := range builds {
		if w.item.Spare {
			continue
		}
		elapsed, processor := r.costs.last(w.item.Name)
		list = append(list, Expected{w.item.ID, w.k, elapsed, processor / time.Duration(processors)})
	}
	r.events.Expect(list)
}

// jobsFor decides how make in command, which builds the modules, learns how many jobs to
// run, and how many tokens of the server the build holds for them.
func jobsFor(command string, server *jobserver.Server) (jobs, int) {
	if server == nil {
		return jobs{number: -1}, 1
	}
	own, ok := build.OwnJobs(command)
	switch {
	case ok && own > 0:
		return jobs{}, min(own, server.Tokens())
	case ok:
		return jobs{}, server.Tokens()
	case !build.Bare(command) || server.Tokens() == 1:
		return jobs{}, 1
	case server.Shares():
		return jobs{server: server}, 1
	}
	// A make that cannot share gets all tokens.
	return jobs{number: server.Tokens()}, server.Tokens()
}
